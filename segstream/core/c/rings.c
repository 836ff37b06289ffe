/* Windows: rings of panes in packed States, and their sums after each row. What `window.py` does
 * with arrays, in one pass over the rows: integers, so in any order the same. */

#include "compiled.h"

typedef struct { /* [groups, measures, panes] of unsigned integers within an array of States */
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

static int rings_of(const Py_buffer *view, Rings *rings) {
    const int is_packed = view->ndim == 3 && view->strides[2] == view->itemsize &&
                          view->strides[1] == view->itemsize * view->shape[2] &&
                          (view->itemsize <= 2 || view->itemsize == 4 || view->itemsize == 8);
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
    Views views;
    Rings rings;
    if (views_of(args, "s-8888888", &views) < 0) return NULL;
    const Py_buffer *of = views.of;
    const Py_ssize_t now = PyLong_AsSsize_t(PyTuple_GET_ITEM(args, 1));
    int failed = PyErr_Occurred() != NULL || rings_of(of, &rings) < 0;
    const Py_ssize_t rows = count_of(of + 3), count = count_of(of + 7);
    if (!failed && (count_of(of + 2) != rings.groups || count_of(of + 4) != rows ||
                    count_of(of + 5) != rings.measures * rows || count_of(of + 6) != 2 * count ||
                    count_of(of + 8) != count * rows || rings.size == 1 || rings.size == 8)) {
        PyErr_SetString(PyExc_ValueError, "the arrays do not fit each other");
        failed = 1;
    }
    const int64_t *first = of[2].buf, *slot = of[3].buf, *age = of[4].buf, *windows = of[6].buf;
    const double *units = of[7].buf;
    int64_t *added = of[5].buf;
    double *sums = of[8].buf;
    long cut = 0;
    Py_ssize_t from = 0, to = 0; /* the windows of the measure */
    for (Py_ssize_t m = 0; !failed && m < rings.measures; m++, added += rows, from = to) {
        while (to < count && windows[2 * to] == m) to++;
        for (Py_ssize_t g = 0; g < rings.groups; g++) {
            char *ring = rings.start + g * rings.group_stride + m * rings.panes * rings.size;
            const Py_ssize_t begin = first[g], end = g + 1 < rings.groups ? first[g + 1] : rows;
            for (Py_ssize_t w = from; w < to; w++)
                sums[w * rows + begin] = (double)latest(&rings, ring, windows[2 * w + 1], now);
            for (Py_ssize_t row = begin; row < end; row++) {
                if (added[row] == 0) continue;
                const int64_t all = added[row];
                added[row] = put(ring + slot[row] * rings.size, rings.size, all);
                cut += added[row] != all;
            }
            for (Py_ssize_t w = from; w < to; w++) {
                double *sum = sums + w * rows;
                int64_t total = (int64_t)sum[begin]; /* exact: below 1,000 times 2^32 */
                for (Py_ssize_t row = begin; row < end; row++) {
                    total += age[row] < windows[2 * w + 1] ? added[row] : 0;
                    sum[row] = (double)total / units[w];
                }
            }
        }
    }
    release(&views);
    return failed ? NULL : PyLong_FromLong(cut);
}

/* rotate(rings, behind, pane): clear the slots of the panes that were passed on the way to `pane`;
 * `behind` int64 [groups]: how many. */
PyObject *rings_rotate(PyObject *Py_UNUSED(module), PyObject *args) {
    Views views;
    Rings rings;
    if (views_of(args, "s8-", &views) < 0) return NULL;
    const Py_ssize_t pane = PyLong_AsSsize_t(PyTuple_GET_ITEM(args, 2));
    const int64_t *behind = views.of[1].buf;
    int failed = PyErr_Occurred() != NULL || rings_of(views.of, &rings) < 0;
    for (Py_ssize_t g = 0; !failed && g < rings.groups; g++) {
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
    release(&views);
    if (failed) return NULL;
    Py_RETURN_NONE;
}

/* accept(ids, accepted, last, first, event, time, messages, total)
 *
 * Note the accepted events in the States: `ids` uint64 [groups, ids], `accepted` uint32 [groups],
 * `last` int64 [groups] within an array of States. `first` int64 [groups]: first row of each.
 * `event` (-1: a tick), `time` int64 [rows]. `messages` uint64: hash of each event's id. `total`
 * int64 [groups]: how many each has. */
PyObject *rings_accept(PyObject *Py_UNUSED(module), PyObject *args) {
    Views views;
    if (views_of(args, "sss88888", &views) < 0) return NULL;
    const Py_buffer *of = views.of;
    const Py_ssize_t groups = count_of(of + 3), rows = count_of(of + 4), ring = of[0].shape[1];
    const int64_t *first = of[3].buf, *event = of[4].buf, *time = of[5].buf;
    const uint64_t *messages = of[6].buf;
    int64_t *total = of[7].buf;
    for (Py_ssize_t g = 0; g < groups; g++) {
        const Py_ssize_t end = g + 1 < groups ? first[g + 1] : rows;
        char *ids = (char *)of[0].buf + g * of[0].strides[0];
        char *accepted_at = (char *)of[1].buf + g * of[1].strides[0];
        char *last_at = (char *)of[2].buf + g * of[2].strides[0];
        uint32_t accepted;
        int64_t last;
        memcpy(&accepted, accepted_at, sizeof accepted);
        memcpy(&last, last_at, sizeof last);
        total[g] = 0;
        for (Py_ssize_t row = first[g]; row < end; row++) {
            if (event[row] < 0) continue;
            memcpy(ids + accepted % ring * of[0].strides[1], messages + event[row], 8);
            accepted++;
            total[g]++;
            if (time[row] > last) last = time[row];
        }
        memcpy(accepted_at, &accepted, sizeof accepted);
        memcpy(last_at, &last, sizeof last);
    }
    release(&views);
    Py_RETURN_NONE;
}
