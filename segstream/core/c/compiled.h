/* What the files of `_compiled` share. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

#define MOST_VIEWS 15

typedef struct {
    Py_buffer of[MOST_VIEWS];
} Views;

/* Look at the arguments that are arrays, to write to. `kinds`: of each argument the bytes of an
 * item of a contiguous array, as a digit; `s`: an array of any strides; `-`: no array. -1: an error
 * is set, and nothing is left to be released. */
int views_of(PyObject *args, const char *kinds, Views *views);
void release(Views *views);

/* Items of a contiguous array. */
static inline Py_ssize_t count_of(const Py_buffer *view) { return view->len / view->itemsize; }

/* With names of their own: libc has functions called `advance` and `step`. */
extern PyType_Spec Skimmer_spec; /* skim.c */
PyObject *ids_coded(PyObject *module, PyObject *args);
PyObject *ids_murmur2(PyObject *module, PyObject *args);
PyObject *ids_suspects(PyObject *module, PyObject *args);
PyObject *packing_widest(PyObject *module, PyObject *none);
PyObject *packing_pack(PyObject *module, PyObject *args);
PyObject *packing_unpack(PyObject *module, PyObject *args);
PyObject *resp_command(PyObject *module, PyObject *arguments);
PyObject *rings_accept(PyObject *module, PyObject *args);
PyObject *rings_advance(PyObject *module, PyObject *args);
PyObject *rings_rotate(PyObject *module, PyObject *args);
PyObject *score_distances(PyObject *module, PyObject *args);
PyObject *score_shortest(PyObject *module, PyObject *args);
PyObject *segment_decide(PyObject *module, PyObject *args);
