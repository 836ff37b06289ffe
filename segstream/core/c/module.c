/* segstream.core._compiled: what Python cannot do as fast, with the same results. */

#include "compiled.h"

int views_of(PyObject *args, const char *kinds, Views *views) {
    memset(views, 0, sizeof *views);
    if (PyTuple_GET_SIZE(args) != (Py_ssize_t)strlen(kinds)) {
        PyErr_Format(PyExc_TypeError, "%zu arguments expected", strlen(kinds));
        return -1;
    }
    for (int i = 0; kinds[i] != '\0'; i++) {
        Py_buffer *view = views->of + i;
        const int flags = PyBUF_WRITABLE | (kinds[i] == 's' ? PyBUF_STRIDES : PyBUF_C_CONTIGUOUS);
        if (kinds[i] == '-') continue;
        int failed = PyObject_GetBuffer(PyTuple_GET_ITEM(args, i), view, flags) < 0;
        if (!failed && kinds[i] != 's' && view->itemsize != kinds[i] - '0') {
            PyErr_Format(PyExc_TypeError, "argument %d: items of %c bytes expected", i, kinds[i]);
            failed = 1;
        }
        if (failed) {
            release(views);
            return -1;
        }
    }
    return 0;
}

void release(Views *views) {
    for (int i = 0; i < MOST_VIEWS; i++)
        if (views->of[i].obj != NULL) PyBuffer_Release(views->of + i);
}

static PyMethodDef functions[] = {
    {"accept", rings_accept, METH_VARARGS, "See rings.c."},
    {"advance", rings_advance, METH_VARARGS, "See rings.c."},
    {"coded", ids_coded, METH_VARARGS, "See ids.c."},
    {"command", resp_command, METH_O, "See resp.c."},
    {"decide", segment_decide, METH_VARARGS, "See segment.c."},
    {"distances", score_distances, METH_VARARGS, "See score.c."},
    {"murmur2", ids_murmur2, METH_VARARGS, "See ids.c."},
    {"pack", packing_pack, METH_VARARGS, "See packing.c."},
    {"rotate", rings_rotate, METH_VARARGS, "See rings.c."},
    {"shortest", score_shortest, METH_VARARGS, "See score.c."},
    {"suspects", ids_suspects, METH_VARARGS, "See ids.c."},
    {"unpack", packing_unpack, METH_VARARGS, "See packing.c."},
    {"widest", packing_widest, METH_NOARGS, "See packing.c."},
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
