/* Calls in JSON, read without making objects of what nobody wants.
 *
 * A Skimmer reads the plain ones among many records: printable ASCII without escapes, times in one
 * of the usual forms, numbers of up to 15 digits, no name twice where names count. What it reads it
 * reads bit for bit as `event.py` does with msgspec. Whatever else a record may be, right or wrong,
 * it leaves it to that: a function that cannot go on returns NULL, and no reason.
 *
 * JSON: RFC 8259. Times: RFC 3339. Numbers: W. D. Clinger, How to Read Floating Point Numbers
 * Accurately, 1990 (a whole number below 2^53 divided by a power of ten up to 10^22 is rounded
 * once). Days: H. Hinnant, chrono-Compatible Low-Level Date Algorithms, `days_from_civil`.
 */

#include "compiled.h"

#define DEEPEST 32    /* levels of what is skipped */
#define MOST_TEXT 256 /* characters of an id or a name */
#define MOST_DIGITS 15
#define UNTOLD (-1)   /* no time */

/* Slots of the texts that every call may have; those of the configuration come behind. */
enum { TYPE, USER, ANONYMOUS, MESSAGE, TIMESTAMP, EVENT };
enum { OBJECT, NUMBER, TEXT }; /* what a name stands for */

typedef struct {
    const char *start; /* NULL: missing */
    Py_ssize_t length;
} Text;

typedef struct {
    Text text;
    double number; /* NaN: missing */
} Slot;

typedef struct {
    Text name;
    long what;
    long target; /* position of a node, or of a slot */
    double low, high;
    uint64_t seen; /* in which record */
} Name;

typedef struct {
    Name *names;
    Py_ssize_t count;
} Node;

typedef struct { /* a value of the configuration, and what it is read as */
    Text text;
    double number;
} Declared;

typedef struct { /* a field that is read from a kind of calls */
    long field;
    long slot;
    int is_text;
    Declared *declared;
    Py_ssize_t count;
    double other; /* of a text that was not declared; below 0: it is not accepted */
} Read;

typedef struct {
    Text type;
    Text event; /* NULL: every other call of the type */
    PyObject *name;
    long kind;
    Read *reads;
    Py_ssize_t count;
} Kind;

typedef struct {
    PyObject_HEAD
    PyObject *program; /* owns all texts below */
    Node *nodes;
    Py_ssize_t node_count;
    Kind *kinds;
    Py_ssize_t kind_count;
    Slot *slots;
    Py_ssize_t slot_count;
    long fields;
    uint64_t record; /* number of the record that is read, counted from 1 */
} Skimmer;

/* -- JSON: each function gets where something begins and returns what is behind it -- */

static inline const char *blank(const char *at) {
    while (*at == ' ') at++;
    return at;
}

static inline const char *string(const char *at, const char *end, Text *text) {
    if (*at != '"') return NULL;
    const char *start = at + 1, *quote = memchr(start, '"', end - start);
    if (quote == NULL) return NULL;
    text->start = start;
    text->length = quote - start;
    return quote + 1;
}

static inline int is_digit(char c) { return c >= '0' && c <= '9'; }

/* `value` is NaN for a number that is right but not plain. */
static const char *number(const char *at, double *value) {
    static const double powers[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,
                                    1e8,  1e9,  1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
                                    1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
    int64_t whole = 0;
    int digits = 0, places = 0, plain = 1, negative = *at == '-';
    at += negative;
    if (!is_digit(*at)) return NULL;
    if (*at == '0' && is_digit(at[1])) return NULL;
    for (; is_digit(*at); at++) {
        digits += whole != 0 || *at != '0';
        if (digits <= MOST_DIGITS) whole = 10 * whole + (*at - '0');
    }
    if (*at == '.') {
        if (!is_digit(*++at)) return NULL;
        for (; is_digit(*at); at++, places++) {
            digits += whole != 0 || *at != '0';
            if (digits <= MOST_DIGITS) whole = 10 * whole + (*at - '0');
        }
    }
    if (*at == 'e' || *at == 'E') {
        plain = 0;
        at++;
        if (*at == '+' || *at == '-') at++;
        if (!is_digit(*at)) return NULL;
        while (is_digit(*at)) at++;
    }
    plain = plain && digits <= MOST_DIGITS && places <= 22 && !(negative && whole == 0);
    *value = plain ? (negative ? -1.0 : 1.0) * ((double)whole / powers[places]) : Py_NAN;
    return at;
}

static const char *word(const char *at, const char *wanted) {
    size_t length = strlen(wanted);
    return strncmp(at, wanted, length) == 0 ? at + length : NULL;
}

static const char *skipped(const char *at, const char *end, int depth) {
    Text text;
    double value;
    switch (*at) {
    case '"':
        return string(at, end, &text);
    case 't':
        return word(at, "true");
    case 'f':
        return word(at, "false");
    case 'n':
        return word(at, "null");
    case '{':
    case '[': {
        const char closing = *at == '{' ? '}' : ']';
        if (depth == DEEPEST) return NULL;
        at = blank(at + 1);
        if (*at == closing) return at + 1;
        for (;;) {
            if (closing == '}') {
                at = string(at, end, &text);
                if (at == NULL || *(at = blank(at)) != ':') return NULL;
                at = blank(at + 1);
            }
            at = skipped(at, end, depth + 1);
            if (at == NULL) return NULL;
            at = blank(at);
            if (*at == closing) return at + 1;
            if (*at != ',') return NULL;
            at = blank(at + 1);
        }
    }
    default:
        return number(at, &value);
    }
}

static inline int is_same(const Text *one, const Text *other) {
    return one->length == other->length && memcmp(one->start, other->start, one->length) == 0;
}

static const char *object(Skimmer *self, long node, const char *at, const char *end);

static const char *named(Skimmer *self, Name *name, const char *at, const char *end) {
    /* Of a name told twice the last one counts, but what does the first leave? */
    if (name->seen == self->record) return NULL;
    name->seen = self->record;
    if (*at == 'n') return word(at, "null");
    Slot *slot = self->slots + name->target;
    switch (name->what) {
    case OBJECT:
        return object(self, name->target, at, end);
    case TEXT:
        return string(at, end, &slot->text);
    default:
        at = number(at, &slot->number);
        /* What is not plain is NaN, and so within no bounds. */
        return at != NULL && slot->number >= name->low && slot->number <= name->high ? at : NULL;
    }
}

static const char *object(Skimmer *self, long number, const char *at, const char *end) {
    const Node *node = self->nodes + number;
    if (*at != '{') return NULL;
    at = blank(at + 1);
    if (*at == '}') return at + 1;
    for (;;) {
        Text key;
        at = string(at, end, &key);
        if (at == NULL || *(at = blank(at)) != ':') return NULL;
        at = blank(at + 1);
        Py_ssize_t i = 0;
        while (i < node->count && !is_same(&key, &node->names[i].name)) i++;
        at = i < node->count ? named(self, node->names + i, at, end) : skipped(at, end, 0);
        if (at == NULL) return NULL;
        at = blank(at);
        if (*at == '}') return at + 1;
        if (*at != ',') return NULL;
        at = blank(at + 1);
    }
}

/* -- times -- */

static int digits(const char *at, int count, int low, int high) {
    int value = 0;
    for (int i = 0; i < count; i++) {
        if (!is_digit(at[i])) return -1;
        value = 10 * value + (at[i] - '0');
    }
    return value >= low && value <= high ? value : -1;
}

/* Milliseconds since 1970 of `2026-11-23T06:06:00.123Z`; with 0, 3 or 6 places and `Z` or
 * `+00:00`. UNTOLD: of another form, or no time of the years 1970 to 2200. */
static int64_t time_of(const Text *text) {
    static const int days_of[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    const char *at = text->start;
    const char *zone = at + text->length - 1;
    int places = 0;
    if (text->length < 20) return UNTOLD;
    if (*zone != 'Z') {
        zone = at + text->length - 6;
        if (memcmp(zone, "+00:00", 6) != 0) return UNTOLD;
    }
    if (zone != at + 19) {
        places = (int)(zone - at) - 20;
        if ((places != 3 && places != 6) || at[19] != '.') return UNTOLD;
    }
    if (at[4] != '-' || at[7] != '-' || at[10] != 'T' || at[13] != ':' || at[16] != ':')
        return UNTOLD;
    int year = digits(at, 4, 1970, 2200), month = digits(at + 5, 2, 1, 12);
    if (year < 0 || month < 0) return UNTOLD;
    int is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    int day = digits(at + 8, 2, 1, days_of[month - 1] + (month == 2 && is_leap));
    int hour = digits(at + 11, 2, 0, 23), minute = digits(at + 14, 2, 0, 59);
    int second = digits(at + 17, 2, 0, 59);
    int fraction = places ? digits(at + 20, places, 0, 999999) : 0;
    if (day < 0 || hour < 0 || minute < 0 || second < 0 || fraction < 0) return UNTOLD;
    if (places == 6) fraction /= 1000;
    int y = year - (month <= 2), era = y / 400, of_era = y - era * 400;
    int of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
    int64_t days = era * 146097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719468;
    return (((days * 24 + hour) * 60 + minute) * 60 + second) * 1000 + fraction;
}

/* -- calls -- */

static int is_plain(const char *at, Py_ssize_t length) {
    unsigned char strange = 0;
    for (Py_ssize_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)at[i];
        strange |= (c < 0x20) | (c > 0x7e) | (c == '\\');
    }
    return !strange;
}

static int is_short(const Text *text) {
    return text->start == NULL || (text->length >= 1 && text->length <= MOST_TEXT);
}

/* Which sort of call the slots hold; NULL: it is left. */
static const Kind *kind_of(Skimmer *self) {
    const Text *type = &self->slots[TYPE].text, *event = &self->slots[EVENT].text;
    if (type->start == NULL) return NULL;
    for (Py_ssize_t i = 0; i < self->kind_count; i++) {
        const Kind *kind = self->kinds + i;
        if (!is_same(type, &kind->type)) continue;
        if (kind->event.start == NULL) return kind;
        if (event->start != NULL && is_same(event, &kind->event)) return kind;
    }
    return NULL;
}

/* Write a call's fields; 0: a value is not to be accepted. `numbers` holds NaN. */
static int fill(Skimmer *self, const Kind *kind, double *numbers) {
    for (Py_ssize_t i = 0; i < kind->count; i++) {
        const Read *read = kind->reads + i;
        const Slot *slot = self->slots + read->slot;
        double number = slot->number;
        if (read->is_text) {
            if (slot->text.start == NULL) continue;
            Py_ssize_t j = 0;
            while (j < read->count && !is_same(&slot->text, &read->declared[j].text)) j++;
            number = j < read->count ? read->declared[j].number : read->other;
            if (number < 0) return 0;
        }
        numbers[read->field] = number;
    }
    return 1;
}

static PyObject *text_of(const char *before, const Text *text) {
    Py_ssize_t ahead = (Py_ssize_t)strlen(before);
    PyObject *made = PyUnicode_New(ahead + text->length, 127);
    if (made != NULL) {
        memcpy(PyUnicode_1BYTE_DATA(made), before, ahead);
        memcpy(PyUnicode_1BYTE_DATA(made) + ahead, text->start, text->length);
    }
    return made;
}

/* Append what is new; -1: no memory. */
static int append(PyObject *list, PyObject *item) {
    int failed = item == NULL || PyList_Append(list, item) < 0;
    Py_XDECREF(item);
    return failed ? -1 : 0;
}

typedef struct { /* the columns under way */
    int64_t *record, *time, *kind;
    double *numbers;
    PyObject *customers, *messages, *names;
    Py_ssize_t count;
} Columns;

/* Read one record into the columns. 1: done; 0: it is left; -1: no memory. */
static int read_one(Skimmer *self, Py_ssize_t position, PyObject *value, Columns *to) {
    if (!PyBytes_Check(value)) return 0;
    const char *start = PyBytes_AS_STRING(value); /* a NUL is behind it */
    const Py_ssize_t length = PyBytes_GET_SIZE(value);
    if (!is_plain(start, length)) return 0;
    self->record++;
    for (Py_ssize_t i = 0; i < self->slot_count; i++) {
        self->slots[i].text.start = NULL;
        self->slots[i].number = Py_NAN;
    }
    const char *end = start + length;
    const char *at = object(self, 0, blank(start), end);
    if (at == NULL || blank(at) != end) return 0;

    const Kind *kind = kind_of(self);
    if (kind == NULL) return 0;
    const int is_track = kind->name == Py_None || kind->event.start != NULL;
    const Text *event = &self->slots[EVENT].text;
    if (is_track && (event->start == NULL || !is_short(event))) return 0;
    const Text *user = &self->slots[USER].text, *anonymous = &self->slots[ANONYMOUS].text;
    const Text *message = &self->slots[MESSAGE].text, *when = &self->slots[TIMESTAMP].text;
    if (!is_short(user) || !is_short(anonymous) || !is_short(message)) return 0;
    if (user->start == NULL && anonymous->start == NULL) return 0;
    if (user->start != NULL && strncmp(user->start, "a:", 2) == 0) return 0;
    int64_t time = when->start == NULL ? UNTOLD : time_of(when);
    if (when->start != NULL && time == UNTOLD) return 0;

    double *numbers = to->numbers + to->count * self->fields;
    for (long i = 0; i < self->fields; i++) numbers[i] = Py_NAN;
    if (!fill(self, kind, numbers)) return 0;
    to->record[to->count] = position;
    to->time[to->count] = time;
    to->kind[to->count] = kind->kind;
    to->count++;
    PyObject *name = kind->name == Py_None ? text_of("", event) : Py_NewRef(kind->name);
    PyObject *id = message->start == NULL
                       ? Py_NewRef(Py_None)
                       : PyBytes_FromStringAndSize(message->start, message->length);
    PyObject *customer = user->start != NULL ? text_of("", user) : text_of("a:", anonymous);
    int failed = append(to->names, name) < 0;
    failed |= append(to->messages, id) < 0;
    failed |= append(to->customers, customer) < 0;
    return failed ? -1 : 1;
}

PyDoc_STRVAR(read_doc,
             "read(values, wanted, record, time, kind, numbers) -> (count, customers, messages, "
             "names)\n\n"
             "Read what is plain of the wanted values (a list of bytes or None; bool [n]) into\n"
             "int64 [n], int64 [n] (-1: no time told), int64 [n] and float64 [n, fields].\n"
             "A message's id is bytes; None: none told. What was not read is missing in `record`.");

static PyObject *Skimmer_read(Skimmer *self, PyObject *args) {
    Views views;
    if (views_of(args, "-18888", &views) < 0) return NULL;
    const Py_buffer *of = views.of;
    PyObject *values = PyTuple_GET_ITEM(args, 0), *result = NULL;
    Columns to = {of[2].buf,      of[3].buf,      of[4].buf,      of[5].buf,
                  PyList_New(0), PyList_New(0), PyList_New(0), 0};
    int failed = to.customers == NULL || to.messages == NULL || to.names == NULL;
    const Py_ssize_t count = count_of(of + 1);
    const char *wanted = of[1].buf;
    if (!failed && (!PyList_Check(values) || PyList_GET_SIZE(values) != count ||
                    count_of(of + 2) < count || count_of(of + 3) < count ||
                    count_of(of + 4) < count || count_of(of + 5) < count * self->fields)) {
        PyErr_SetString(PyExc_ValueError, "a list and arrays of its length expected");
        failed = 1;
    }
    for (Py_ssize_t i = 0; i < count && !failed; i++)
        failed = wanted[i] && read_one(self, i, PyList_GET_ITEM(values, i), &to) < 0;
    if (!failed)
        result = Py_BuildValue("nOOO", to.count, to.customers, to.messages, to.names);
    release(&views);
    Py_XDECREF(to.customers);
    Py_XDECREF(to.messages);
    Py_XDECREF(to.names);
    return result;
}

/* -- the program: tuples of bytes, integers and floats, as `skim.py` makes them -- */

static Text text_in(PyObject *bytes) {
    Text text = {NULL, 0};
    if (PyBytes_Check(bytes)) {
        text.start = PyBytes_AS_STRING(bytes);
        text.length = PyBytes_GET_SIZE(bytes);
    }
    return text;
}

static void *zeros(Py_ssize_t count, size_t size) {
    void *made = PyMem_Calloc(count ? count : 1, size);
    if (made == NULL) PyErr_NoMemory();
    return made;
}

static int set_nodes(Skimmer *self, PyObject *nodes) {
    self->node_count = PyTuple_GET_SIZE(nodes);
    self->nodes = zeros(self->node_count, sizeof(Node));
    if (self->nodes == NULL) return -1;
    for (Py_ssize_t i = 0; i < self->node_count; i++) {
        PyObject *names = PyTuple_GET_ITEM(nodes, i);
        Node *node = self->nodes + i;
        node->names = zeros(PyTuple_GET_SIZE(names), sizeof(Name));
        if (node->names == NULL) return -1;
        for (; node->count < PyTuple_GET_SIZE(names); node->count++) {
            PyObject *text;
            Name *name = node->names + node->count;
            if (!PyArg_ParseTuple(PyTuple_GET_ITEM(names, node->count), "Slldd", &text, &name->what,
                                  &name->target, &name->low, &name->high))
                return -1;
            name->name = text_in(text);
            if (name->what != OBJECT && name->target >= self->slot_count)
                self->slot_count = name->target + 1;
        }
    }
    self->slots = zeros(self->slot_count, sizeof(Slot));
    return self->slots == NULL ? -1 : 0;
}

static int set_reads(Kind *kind, PyObject *reads) {
    kind->reads = zeros(PyTuple_GET_SIZE(reads), sizeof(Read));
    if (kind->reads == NULL) return -1;
    for (; kind->count < PyTuple_GET_SIZE(reads); kind->count++) {
        PyObject *declared;
        Read *read = kind->reads + kind->count;
        if (!PyArg_ParseTuple(PyTuple_GET_ITEM(reads, kind->count), "llpO!d", &read->field,
                              &read->slot, &read->is_text, &PyTuple_Type, &declared, &read->other))
            return -1;
        read->declared = zeros(PyTuple_GET_SIZE(declared), sizeof(Declared));
        if (read->declared == NULL) return -1;
        for (; read->count < PyTuple_GET_SIZE(declared); read->count++) {
            PyObject *text;
            Declared *value = read->declared + read->count;
            if (!PyArg_ParseTuple(PyTuple_GET_ITEM(declared, read->count), "Sd", &text,
                                  &value->number))
                return -1;
            value->text = text_in(text);
        }
    }
    return 0;
}

static int set_kinds(Skimmer *self, PyObject *kinds) {
    self->kinds = zeros(PyTuple_GET_SIZE(kinds), sizeof(Kind));
    if (self->kinds == NULL) return -1;
    for (; self->kind_count < PyTuple_GET_SIZE(kinds); self->kind_count++) {
        PyObject *type, *event, *reads;
        Kind *kind = self->kinds + self->kind_count;
        if (!PyArg_ParseTuple(PyTuple_GET_ITEM(kinds, self->kind_count), "SOOlO!", &type, &event,
                              &kind->name, &kind->kind, &PyTuple_Type, &reads))
            return -1;
        kind->type = text_in(type);
        kind->event = text_in(event);
        if (set_reads(kind, reads) < 0) return -1;
    }
    return 0;
}

static void Skimmer_dealloc(Skimmer *self) {
    for (Py_ssize_t i = 0; self->nodes != NULL && i < self->node_count; i++)
        PyMem_Free(self->nodes[i].names);
    /* The last one may be half made, and is not counted then. */
    for (Py_ssize_t i = 0; self->kinds != NULL && i < self->kind_count; i++) {
        for (Py_ssize_t j = 0; self->kinds[i].reads != NULL && j < self->kinds[i].count; j++)
            PyMem_Free(self->kinds[i].reads[j].declared);
        PyMem_Free(self->kinds[i].reads);
    }
    PyMem_Free(self->nodes);
    PyMem_Free(self->kinds);
    PyMem_Free(self->slots);
    Py_XDECREF(self->program);
    PyTypeObject *type = Py_TYPE(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *Skimmer_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(kwargs)) {
    PyObject *nodes, *kinds;
    long fields;
    if (!PyArg_ParseTuple(args, "O!O!l", &PyTuple_Type, &nodes, &PyTuple_Type, &kinds, &fields))
        return NULL;
    Skimmer *self = (Skimmer *)type->tp_alloc(type, 0);
    if (self == NULL) return NULL;
    self->program = Py_NewRef(args);
    self->fields = fields;
    self->slot_count = EVENT + 1;
    if (set_nodes(self, nodes) < 0 || set_kinds(self, kinds) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static PyMethodDef methods[] = {
    {"read", (PyCFunction)Skimmer_read, METH_VARARGS, read_doc},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot type_slots[] = {
    {Py_tp_new, Skimmer_new},
    {Py_tp_dealloc, Skimmer_dealloc},
    {Py_tp_methods, methods},
    {Py_tp_doc, "Skimmer(nodes, kinds, fields): see `segstream.core.skim`."},
    {0, NULL},
};

PyType_Spec Skimmer_spec = {
    .name = "segstream.core._compiled.Skimmer",
    .basicsize = sizeof(Skimmer),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = type_slots,
};
