/* segstream.core._compiled: what Python cannot do as fast, with the same results. */

#include "compiled.h"

void *array_of(PyObject *array, Py_buffer *view, Py_ssize_t size, Py_ssize_t count) {
    if (PyObject_GetBuffer(array, view, PyBUF_WRITABLE | PyBUF_C_CONTIGUOUS) < 0) return NULL;
    if (view->itemsize == size && view->len >= size * count) return view->buf;
    PyErr_Format(PyExc_ValueError, "an array of %zd items of %zd bytes expected", count, size);
    return NULL;
}

static PyMethodDef functions[] = {
    {"advance", rings_advance, METH_VARARGS, "See rings.c."},
    {"coded", ids_coded, METH_VARARGS, "See ids.c."},
    {"murmur2", ids_murmur2, METH_VARARGS, "See ids.c."},
    {"rotate", rings_rotate, METH_VARARGS, "See rings.c."},
    {NULL, NULL, 0, NULL},
};

static int add_types(PyObject *module) {
    PyObject *type = PyType_FromModuleAndSpec(module, &Skimmer_spec, NULL);
    int failed = type == NULL || PyModule_AddObjectRef(module, "Skimmer", type) < 0;
    Py_XDECREF(type);
    return failed ? -1 : 0;
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, add_types}, {0, NULL}};

static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "segstream.core._compiled",
    .m_methods = functions,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__compiled(void) { return PyModuleDef_Init(&definition); }
