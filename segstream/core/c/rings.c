/* Windows: rings of panes in packed States, and their sums after each row. What `window.py` does
 * with arrays, in one pass over the rows: integers, so in any order the same. */

#include "compiled.h"

typedef struct { /* [groups, measures, panes] of unsigned integers within an array of States */
    Py_buffer view;
    char *start;
    Py_ssize_t groups, measures, panes, group_stride, size;
} Rings;

/* Integers in a packed State need not be aligned. */
static inline uint32_t at16(const char *at) {
    uint16_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

static inline uint32_t at32(const char *at) {
    uint32_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

static int rings_of(PyObject *array, Rings *rings) {
    Py_buffer *view = &rings->view;
    if (PyObject_GetBuffer(array, view, PyBUF_WRITABLE | PyBUF_STRIDES) < 0) return -1;
    const int is_packed = view->ndim == 3 && view->strides[2] == view->itemsize &&
                          view->strides[1] == view->itemsize * view->shape[2];
    if (!is_packed) {
        PyErr_SetString(PyExc_ValueError, "rings [groups, measures, panes] of States expected");
        return -1;
    }
    rings->start = view->buf;
    rings->groups = view->shape[0];
    rings->measures = view->shape[1];
    rings->panes = view->shape[2];
    rings->group_stride = view->strides[0];
    rings->size = view->itemsize;
    return 0;
}

static int64_t total_of(const char *ring, Py_ssize_t size, Py_ssize_t from, Py_ssize_t to) {
    int64_t total = 0;
    if (size == 2) {
        uint32_t part = 0; /* at most 1,000 panes: it fits */
        for (Py_ssize_t i = from; i < to; i++) part += at16(ring + 2 * i);
        total = part;
    } else {
        for (Py_ssize_t i = from; i < to; i++) total += at32(ring + 4 * i);
    }
    return total;
}

/* Sum of the latest `length` panes, the last of which has the slot `now`. */
static int64_t latest(const Rings *rings, const char *ring, Py_ssize_t length, Py_ssize_t now) {
    const Py_ssize_t from = now + 1 - length;
    if (from >= 0) return total_of(ring, rings->size, from, now + 1);
    return total_of(ring, rings->size, 0, now + 1) +
           total_of(ring, rings->size, rings->panes + from, rings->panes);
}

/* Put as much into a pane as fits; how much. */
static int64_t put(char *cell, Py_ssize_t size, int64_t added) {
    const int64_t there = size == 2 ? at16(cell) : at32(cell);
    const int64_t limit = size == 2 ? UINT16_MAX : UINT32_MAX;
    const int64_t fitting = added < limit - there ? added : limit - there;
    const uint32_t after = (uint32_t)(there + fitting);
    const uint16_t after16 = (uint16_t)after;
    memcpy(cell, size == 2 ? (const void *)&after16 : (const void *)&after, size);
    return fitting;
}

/* advance(rings, now, first, slot, age, added, windows, units, sums) -> how many were cut off
 *
 * Add the rows to the rings, in the order of the log, and tell every window's sum after each row.
 * `rings` uint16 or uint32 [groups, measures, panes], changed in place; `now`: slot of the pane of
 * all rows. `first` int64 [groups]: first row of each. `slot`, `age` int64 [rows]: where an event
 * falls, and how many panes ago. `added` int64 [measures, rows]. `windows` int64 [k, 2]: measure
 * and length in panes, sorted by measure; `units` float64 [k]: what its sum is divided by.
 * `sums` float64 [k, rows]. In `added` stands in the end what was. */
PyObject *rings_advance(PyObject *Py_UNUSED(module), PyObject *args) {
    PyObject *array, *arrays[7];
    Py_ssize_t now;
    Py_buffer views[7] = {0};
    Rings rings = {0};
    long cut = 0;
    if (!PyArg_ParseTuple(args, "OnOOOOOOO", &array, &now, arrays, arrays + 1, arrays + 2,
                          arrays + 3, arrays + 4, arrays + 5, arrays + 6))
        return NULL;
    int failed = rings_of(array, &rings) < 0;
    void *memory[7];
    for (int i = 0; i < 7 && !failed; i++) {
        memory[i] = array_of(arrays[i], views + i, sizeof(int64_t), i == 0 ? rings.groups : 0);
        failed = memory[i] == NULL;
    }
    const Py_ssize_t rows = failed ? 0 : views[1].len / (Py_ssize_t)sizeof(int64_t);
    const Py_ssize_t count = failed ? 0 : views[5].len / (Py_ssize_t)sizeof(double);
    const Py_ssize_t wanted[] = {rings.groups, rows,      rows,        rows * rings.measures,
                                 2 * count,    count,     count * rows};
    for (int i = 0; i < 7 && !failed; i++) {
        failed = views[i].len != wanted[i] * (Py_ssize_t)sizeof(int64_t);
        if (failed) PyErr_Format(PyExc_ValueError, "array %d: of another length", i);
    }
    if (!failed) {
        const int64_t *first = memory[0], *slot = memory[1], *age = memory[2];
        const int64_t *windows = memory[4];
        int64_t *added = memory[3];
        const double *units = memory[5];
        double *sums = memory[6];
        Py_ssize_t from = 0, to = 0; /* the windows of the measure */
        for (Py_ssize_t m = 0; m < rings.measures; m++, added += rows, from = to) {
            while (to < count && windows[2 * to] == m) to++;
            for (Py_ssize_t g = 0; g < rings.groups; g++) {
                char *ring = rings.start + g * rings.group_stride + m * rings.panes * rings.size;
                const Py_ssize_t begin = first[g], end = g + 1 < rings.groups ? first[g + 1] : rows;
                for (Py_ssize_t w = from; w < to && begin < end; w++)
                    sums[w * rows + begin] = (double)latest(&rings, ring, windows[2 * w + 1], now);
                for (Py_ssize_t row = begin; row < end; row++) {
                    if (added[row] == 0) continue;
                    const int64_t all = added[row];
                    added[row] = put(ring + slot[row] * rings.size, rings.size, all);
                    cut += added[row] != all;
                }
                for (Py_ssize_t w = from; w < to && begin < end; w++) {
                    double *sum = sums + w * rows;
                    int64_t total = (int64_t)sum[begin]; /* exact: below 1,000 times 2^32 */
                    for (Py_ssize_t row = begin; row < end; row++) {
                        total += age[row] < windows[2 * w + 1] ? added[row] : 0;
                        sum[row] = (double)total / units[w];
                    }
                }
            }
        }
    }
    for (int i = 0; i < 7; i++)
        if (views[i].obj != NULL) PyBuffer_Release(views + i);
    if (rings.view.obj != NULL) PyBuffer_Release(&rings.view);
    return failed ? NULL : PyLong_FromLong(cut);
}

/* rotate(rings, behind, pane): clear the slots of the panes that were passed on the way to `pane`;
 * `behind` int64 [groups]: how many. */
PyObject *rings_rotate(PyObject *Py_UNUSED(module), PyObject *args) {
    PyObject *array, *behinds;
    Py_ssize_t pane;
    Py_buffer view = {0};
    Rings rings = {0};
    if (!PyArg_ParseTuple(args, "OOn", &array, &behinds, &pane)) return NULL;
    int failed = rings_of(array, &rings) < 0;
    const int64_t *behind = failed ? NULL : array_of(behinds, &view, sizeof(int64_t), rings.groups);
    failed = behind == NULL;
    for (Py_ssize_t g = 0; g < rings.groups && !failed; g++) {
        char *ring = rings.start + g * rings.group_stride;
        const Py_ssize_t length = behind[g] < rings.panes ? behind[g] : rings.panes;
        if (length <= 0) continue;
        const Py_ssize_t now = pane % rings.panes, from = now + 1 - length;
        for (Py_ssize_t m = 0; m < rings.measures; m++, ring += rings.panes * rings.size) {
            const Py_ssize_t start = from < 0 ? 0 : from;
            memset(ring + start * rings.size, 0, (now + 1 - start) * rings.size);
            if (from < 0) memset(ring + (rings.panes + from) * rings.size, 0, -from * rings.size);
        }
    }
    if (view.obj != NULL) PyBuffer_Release(&view);
    if (rings.view.obj != NULL) PyBuffer_Release(&rings.view);
    if (failed) return NULL;
    Py_RETURN_NONE;
}
