/* Which rows move their customer to another segment: what `segment.py` decides, in one pass. */

#include "compiled.h"
#include <stddef.h>

enum { FIRST, BEHAVIOUR, TIME, MODEL };      /* as CAUSES of `segment.py` */
enum { NO_RULE, CLEAR, HELD, RETIRED };      /* as RULES */
enum { ROW, LEFT, ENTERED, CAUSE, RULE, SEQUENCE, MOVE }; /* what is told of a move */

typedef struct { /* the part of a State that decides */
    uint32_t segment;
    int64_t since;
    uint32_t stamp, sequence, pending;
    int64_t pending_since;
} Decision;

#define FIELDS 6
static const struct {
    size_t at, size;
} fields[FIELDS] = {
    {offsetof(Decision, segment), 4},  {offsetof(Decision, since), 8},
    {offsetof(Decision, stamp), 4},    {offsetof(Decision, sequence), 4},
    {offsetof(Decision, pending), 4},  {offsetof(Decision, pending_since), 8},
};

typedef struct {
    const double *distances;
    const int64_t *ids; /* of segments, ascending */
    Py_ssize_t segments;
    uint32_t version;
    double clear, held;
    int64_t hold, first;
    PyObject *nearest_under;
    int64_t *moves; /* the next one */
} Walk;

/* Field by field, because States need not be aligned. */
static Decision read_decision(const Py_buffer *field, Py_ssize_t group) {
    Decision d;
    for (int f = 0; f < FIELDS; f++)
        memcpy((char *)&d + fields[f].at, (char *)field[f].buf + group * field[f].strides[0],
               fields[f].size);
    return d;
}

static void write_decision(const Py_buffer *field, Py_ssize_t group, const Decision *d) {
    for (int f = 0; f < FIELDS; f++)
        memcpy((char *)field[f].buf + group * field[f].strides[0], (char *)d + fields[f].at,
               fields[f].size);
}

static Py_ssize_t nearest(const double *distances, Py_ssize_t segments) {
    Py_ssize_t best = 0;
    for (Py_ssize_t s = 1; s < segments; s++)
        if (distances[s] < distances[best]) best = s;
    return best;
}

static int forget_pending(Decision *d) {
    const int had = d->pending != 0;
    d->pending = 0;
    d->pending_since = 0;
    return had;
}

static int wait_for(Decision *d, int64_t entered, int64_t at) {
    d->pending = (uint32_t)entered;
    d->pending_since = at;
    return 1;
}

/* -1: an error is set. */
static int move(Walk *walk, Decision *d, Py_ssize_t row, int64_t at, int64_t entered, int cause,
                int rule) {
    if (d->segment != 0 && d->stamp != walk->version) {
        PyObject *id = PyObject_CallFunction(walk->nearest_under, "In", d->stamp, row);
        const long long agreed = id == NULL ? -1 : PyLong_AsLongLong(id);
        Py_XDECREF(id);
        if (PyErr_Occurred()) return -1;
        if (agreed == d->segment) cause = MODEL;
    }
    d->sequence++;
    const int64_t told[] = {row, d->segment, entered, cause, rule, d->sequence};
    memcpy(walk->moves, told, sizeof told);
    walk->moves += MOVE;
    d->segment = (uint32_t)entered;
    d->since = at;
    d->stamp = walk->version;
    forget_pending(d);
    return 1;
}

/* Apply one row to a decision. 1: something has changed; 0: nothing; -1: an error is set. */
static int evaluate(Walk *walk, Decision *d, Py_ssize_t row, int64_t at, int is_event) {
    const double *distances = walk->distances + row * walk->segments;
    const Py_ssize_t best = nearest(distances, walk->segments);
    const int64_t entered = walk->ids[best];
    if (d->segment == entered) {
        const int stale = d->stamp != walk->version;
        d->stamp = walk->version;
        return forget_pending(d) | stale;
    }
    if (d->segment == 0) {
        if (walk->first != 0) {
            if (d->pending == 0) return wait_for(d, entered, at);
            if (at - d->pending_since < walk->first) return 0;
        }
        return move(walk, d, row, at, entered, FIRST, NO_RULE);
    }
    const int cause = is_event ? BEHAVIOUR : TIME;
    Py_ssize_t own = 0;
    while (own < walk->segments && walk->ids[own] != d->segment) own++;
    if (own == walk->segments) return move(walk, d, row, at, entered, cause, RETIRED);
    const double there = distances[best], here = distances[own];
    if (there <= walk->clear * here) return move(walk, d, row, at, entered, cause, CLEAR);
    if (there > walk->held * here) return forget_pending(d);
    if (d->pending != entered) return wait_for(d, entered, at);
    if (at - d->pending_since >= walk->hold) return move(walk, d, row, at, entered, cause, HELD);
    return 0;
}

/* decide(segment, since, stamp, sequence, pending, pending_since, rules, nearest_under, first, at,
 *        event, distances, ids, changed, moves) -> number of moves
 *
 * Apply the rows to the decisions of their groups, in place: fields [groups] of an array of States,
 * uint32, and int64 of the two times. `rules`: version, clear, held, hold, first.
 * `nearest_under(version, row)` is the segment nearest under an older version. `first` int64
 * [groups]: first row of each. `at`, `event` int64 [rows]; `distances` float64 [rows, segments];
 * `ids` int64 [segments]. `changed` bool [groups]: which have; `moves` int64 [rows, 6]: of each
 * move its row, the segments left and entered, cause, rule, and sequence. */
PyObject *segment_decide(PyObject *Py_UNUSED(module), PyObject *args) {
    Views views;
    if (views_of(args, "ssssss--8888818", &views) < 0) return NULL;
    const Py_buffer *of = views.of;
    const int64_t *first = of[8].buf, *at = of[9].buf, *event = of[10].buf;
    const Py_ssize_t groups = count_of(of + 8), rows = count_of(of + 9);
    const Py_ssize_t segments = count_of(of + 12);
    Walk walk = {.distances = of[11].buf, .ids = of[12].buf, .segments = segments,
                 .nearest_under = PyTuple_GET_ITEM(args, 7), .moves = of[14].buf};
    unsigned int version;
    long long hold, newcomer;
    int failed = !PyArg_ParseTuple(PyTuple_GET_ITEM(args, 6), "IddLL", &version, &walk.clear,
                                   &walk.held, &hold, &newcomer);
    walk.version = version, walk.hold = hold, walk.first = newcomer;
    for (int f = 0; f < FIELDS; f++)
        failed |= of[f].ndim != 1 || of[f].shape[0] != groups ||
                  of[f].itemsize != (Py_ssize_t)fields[f].size;
    failed |= count_of(of + 10) != rows || count_of(of + 11) != rows * segments || segments == 0 ||
              count_of(of + 13) != groups || count_of(of + 14) != MOVE * rows;
    if (failed && !PyErr_Occurred())
        PyErr_SetString(PyExc_ValueError, "the arrays do not fit each other");
    char *changed = of[13].buf;
    for (Py_ssize_t g = 0; !failed && g < groups; g++) {
        const Py_ssize_t end = g + 1 < groups ? first[g + 1] : rows;
        Decision d = read_decision(of, g);
        int touched = 0;
        for (Py_ssize_t row = first[g]; row < end && touched >= 0; row++) {
            const int found = evaluate(&walk, &d, row, at[row], event[row] >= 0);
            touched = found < 0 ? -1 : touched | found;
        }
        if (touched > 0) write_decision(of, g, &d);
        changed[g] = touched > 0;
        failed = touched < 0;
    }
    const Py_ssize_t told = (walk.moves - (int64_t *)of[14].buf) / MOVE;
    release(&views);
    return failed ? NULL : PyLong_FromSsize_t(told);
}
