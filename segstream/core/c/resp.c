/* Commands as Redis reads them: see `shell/redis_client.py`. */

#include "compiled.h"

/* What an argument is sent as; NULL with no error set: neither bytes nor text. */
static const char *sent_as(PyObject *argument, Py_ssize_t *length) {
    if (PyUnicode_Check(argument)) return PyUnicode_AsUTF8AndSize(argument, length);
    if (!PyBytes_Check(argument)) return NULL;
    *length = PyBytes_GET_SIZE(argument);
    return PyBytes_AS_STRING(argument);
}

static int digits_of(Py_ssize_t number) {
    int digits = 1;
    while (number >= 10) number /= 10, digits++;
    return digits;
}

/* A sign, a number, and the end of a line. */
static char *line(char *to, char sign, Py_ssize_t number) {
    const int digits = digits_of(number);
    *to = sign;
    for (int i = digits; i > 0; i--, number /= 10) to[i] = (char)('0' + number % 10);
    memcpy(to + 1 + digits, "\r\n", 2);
    return to + digits + 3;
}

/* command(arguments) -> its bytes (RESP: an array of bulk strings), or None if an argument of the
 * tuple is neither bytes nor text, or the first one has several words. */
PyObject *resp_command(PyObject *Py_UNUSED(module), PyObject *arguments) {
    if (!PyTuple_Check(arguments)) {
        PyErr_SetString(PyExc_TypeError, "a tuple expected");
        return NULL;
    }
    const Py_ssize_t count = PyTuple_GET_SIZE(arguments);
    Py_ssize_t length, size = digits_of(count) + 3;
    for (Py_ssize_t i = 0; i < count; i++) {
        const char *from = sent_as(PyTuple_GET_ITEM(arguments, i), &length);
        if (from == NULL && PyErr_Occurred()) return NULL;
        if (from == NULL || (i == 0 && memchr(from, ' ', length) != NULL)) Py_RETURN_NONE;
        size += digits_of(length) + 5 + length;
    }
    PyObject *made = PyBytes_FromStringAndSize(NULL, size);
    if (made == NULL) return NULL;
    char *to = line(PyBytes_AS_STRING(made), '*', count);
    for (Py_ssize_t i = 0; i < count; i++) {
        const char *from = sent_as(PyTuple_GET_ITEM(arguments, i), &length); /* as before */
        to = line(to, '$', length);
        memcpy(to, from, length);
        memcpy(to + length, "\r\n", 2);
        to += length + 2;
    }
    return made;
}
