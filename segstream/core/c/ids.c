/* Ids: of customers, and of messages. */

#include "compiled.h"

static int are_fit(PyObject *list, const Py_buffer *array) {
    if (PyList_Check(list) && PyList_GET_SIZE(list) == count_of(array)) return 1;
    PyErr_SetString(PyExc_ValueError, "a list and an array of its length expected");
    return 0;
}

/* coded(ids, code) -> distinct: the distinct texts in the order of their first appearance; `code`
 * int64 [n] is the position of each of `ids` among them. */
PyObject *ids_coded(PyObject *Py_UNUSED(module), PyObject *args) {
    Views views;
    if (views_of(args, "-8", &views) < 0) return NULL;
    PyObject *ids = PyTuple_GET_ITEM(args, 0), *positions = PyDict_New(), *distinct = PyList_New(0);
    int failed = !are_fit(ids, views.of + 1) || positions == NULL || distinct == NULL;
    int64_t *code = views.of[1].buf;
    for (Py_ssize_t i = 0; !failed && i < PyList_GET_SIZE(ids); i++) {
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
    release(&views);
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
    Views views;
    if (views_of(args, "-4", &views) < 0) return NULL;
    PyObject *ids = PyTuple_GET_ITEM(args, 0);
    int failed = !are_fit(ids, views.of + 1);
    uint32_t *hashes = views.of[1].buf;
    for (Py_ssize_t i = 0; !failed && i < PyList_GET_SIZE(ids); i++) {
        char *start;
        Py_ssize_t length;
        failed = PyBytes_AsStringAndSize(PyList_GET_ITEM(ids, i), &start, &length) < 0;
        if (!failed) hashes[i] = murmur2_of((const unsigned char *)start, length);
    }
    release(&views);
    if (failed) return NULL;
    Py_RETURN_NONE;
}

/* suspects(rings, code, messages, suspect) -> whether there are any
 *
 * Which events may repeat an id of their customer: one of the latest, or one of the batch.
 * `rings` uint64 [customers, ids] within an array of States; `code` int64 [n], `messages` uint64
 * [n]: of each event its customer and the hash of its id; `suspect` bool [n]. */
PyObject *ids_suspects(PyObject *Py_UNUSED(module), PyObject *args) {
    Views views;
    if (views_of(args, "s881", &views) < 0) return NULL;
    const Py_buffer *rings = views.of;
    const int64_t *code = views.of[1].buf;
    const uint64_t *messages = views.of[2].buf;
    char *suspect = views.of[3].buf;
    const Py_ssize_t count = count_of(views.of + 1);
    Py_ssize_t size = 1;
    while (size < 2 * count) size *= 2;
    uint64_t *keys = PyMem_Calloc(size, sizeof(uint64_t)); /* 0: a free place */
    int any = 0;
    for (Py_ssize_t i = 0; i < count && keys != NULL; i++) {
        const char *ring = (char *)rings->buf + code[i] * rings->strides[0];
        int known = 0;
        for (Py_ssize_t j = 0; j < rings->shape[1]; j++)
            known |= memcmp(ring + j * rings->strides[1], messages + i, sizeof *messages) == 0;
        /* Both the customer and the id enter the key; equal ones only make suspect. */
        const uint64_t key = (messages[i] ^ ((uint64_t)code[i] * 0x9e3779b97f4a7c15)) | 1;
        Py_ssize_t at = (Py_ssize_t)(key >> 1) & (size - 1);
        while (keys[at] != 0 && keys[at] != key) at = (at + 1) & (size - 1);
        suspect[i] = (char)(known | (keys[at] == key));
        any |= suspect[i];
        keys[at] = key;
    }
    release(&views);
    if (keys == NULL) return PyErr_NoMemory();
    PyMem_Free(keys);
    return PyBool_FromLong(any);
}
