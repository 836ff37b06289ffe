/* What the files of `_compiled` share. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

/* The memory of a contiguous array of at least `count` items of `size` bytes, to write to; to be
 * released if `view->obj` is not NULL. NULL: an error is set. */
void *array_of(PyObject *array, Py_buffer *view, Py_ssize_t size, Py_ssize_t count);

extern PyType_Spec Skimmer_spec;                                /* skim.c */
PyObject *ids_coded(PyObject *module, PyObject *args);              /* ids.c */
PyObject *ids_murmur2(PyObject *module, PyObject *args);            /* ids.c */
PyObject *rings_advance(PyObject *module, PyObject *args);            /* rings.c */
PyObject *rings_rotate(PyObject *module, PyObject *args);             /* rings.c */
