/* Ids of customers: their positions among the distinct ones, and Kafka's hash of them. */

#include "compiled.h"

/* coded(ids, code) -> distinct: the distinct texts in the order of their first appearance; `code`
 * int64 [n] is the position of each of `ids` among them. */
PyObject *ids_coded(PyObject *Py_UNUSED(module), PyObject *args) {
    PyObject *ids, *array;
    Py_buffer view = {0};
    if (!PyArg_ParseTuple(args, "O!O", &PyList_Type, &ids, &array)) return NULL;
    const Py_ssize_t count = PyList_GET_SIZE(ids);
    int64_t *code = array_of(array, &view, sizeof(int64_t), count);
    PyObject *positions = PyDict_New(), *distinct = PyList_New(0);
    int failed = code == NULL || positions == NULL || distinct == NULL;
    for (Py_ssize_t i = 0; i < count && !failed; i++) {
        PyObject *id = PyList_GET_ITEM(ids, i);
        PyObject *position = PyDict_GetItemWithError(positions, id); /* borrowed */
        if (position != NULL) {
            code[i] = PyLong_AsLongLong(position);
            continue;
        }
        code[i] = PyList_GET_SIZE(distinct);
        position = PyErr_Occurred() ? NULL : PyLong_FromLongLong(code[i]);
        failed = position == NULL || PyDict_SetItem(positions, id, position) < 0 ||
                 PyList_Append(distinct, id) < 0;
        Py_XDECREF(position);
    }
    if (view.obj != NULL) PyBuffer_Release(&view);
    Py_XDECREF(positions);
    if (!failed) return distinct;
    Py_XDECREF(distinct);
    return NULL;
}

/* org.apache.kafka.common.utils.Utils.murmur2 */
static uint32_t murmur2_of(const unsigned char *at, Py_ssize_t length) {
    const uint32_t m = 0x5bd1e995;
    uint32_t h = 0x9747b28c ^ (uint32_t)length;
    for (; length >= 4; at += 4, length -= 4) {
        uint32_t k = at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
        k *= m;
        k ^= k >> 24;
        h = (h * m) ^ (k * m);
    }
    if (length == 3) h ^= (uint32_t)at[2] << 16;
    if (length >= 2) h ^= (uint32_t)at[1] << 8;
    if (length >= 1) h = (h ^ at[0]) * m;
    h ^= h >> 13;
    h *= m;
    return h ^ (h >> 15);
}

/* murmur2(ids, hashes): the hash of each id, a list of bytes, into uint32 [n]. */
PyObject *ids_murmur2(PyObject *Py_UNUSED(module), PyObject *args) {
    PyObject *ids, *array;
    Py_buffer view = {0};
    if (!PyArg_ParseTuple(args, "O!O", &PyList_Type, &ids, &array)) return NULL;
    const Py_ssize_t count = PyList_GET_SIZE(ids);
    uint32_t *hashes = array_of(array, &view, sizeof(uint32_t), count);
    int failed = hashes == NULL;
    for (Py_ssize_t i = 0; i < count && !failed; i++) {
        char *start;
        Py_ssize_t length;
        failed = PyBytes_AsStringAndSize(PyList_GET_ITEM(ids, i), &start, &length) < 0;
        if (!failed) hashes[i] = murmur2_of((const unsigned char *)start, length);
    }
    if (view.obj != NULL) PyBuffer_Release(&view);
    if (failed) return NULL;
    Py_RETURN_NONE;
}
