/* Distances to the centres of segments, and raw values in few digits. */

#include "compiled.h"
#include <math.h>

/* distances(space, centres, total): Euclidean, from float32 [n, d] and float64 [k, d] into float64
 * [n, k]; summed in the order of the features, each step rounded. */
PyObject *score_distances(PyObject *Py_UNUSED(module), PyObject *args) {
    Views views;
    if (views_of(args, "488", &views) < 0) return NULL;
    const Py_buffer *space = views.of, *centres = views.of + 1, *total = views.of + 2;
    const int fits = space->ndim == 2 && centres->ndim == 2 &&
                     space->shape[1] == centres->shape[1] &&
                     count_of(total) == space->shape[0] * centres->shape[0];
    if (fits) {
        const Py_ssize_t n = space->shape[0], d = space->shape[1], k = centres->shape[0];
        const float *x = space->buf;
        double *distance = total->buf;
        for (Py_ssize_t i = 0; i < n; i++, x += d) {
            const double *centre = centres->buf;
            for (Py_ssize_t c = 0; c < k; c++, centre += d) {
                double sum = 0;
                for (Py_ssize_t j = 0; j < d; j++) {
                    const double difference = (double)x[j] - centre[j];
                    sum += difference * difference;
                }
                *distance++ = sqrt(sum);
            }
        }
    } else {
        PyErr_SetString(PyExc_ValueError, "arrays [n, d], [k, d] and [n, k] expected");
    }
    release(&views);
    if (!fits) return NULL;
    Py_RETURN_NONE;
}

#define DIGITS 12 /* 24 bits times 5^12 are less than 53 bits */

/* The number with the fewest digits behind the point that is this float32 when it is rounded, and
 * the nearest of them; NaN: too small or too large for what is done here. The products are exact,
 * and in whole numbers below 2^24 no digit can be left out. */
static double shortest_of(float value) {
    static const double tens[] = {1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12};
    if (value == 0) return 0; /* without a sign */
    if (!(fabsf(value) < 1 << 24)) return Py_NAN;
    for (int digits = 0; digits <= DIGITS; digits++) {
        const double found = rint(value * tens[digits]) / tens[digits];
        if ((float)found == value) return found;
    }
    return Py_NAN;
}

/* shortest(values, numbers): of each of float32 [n] into float64 [n]; NaN where it is not found. */
PyObject *score_shortest(PyObject *Py_UNUSED(module), PyObject *args) {
    Views views;
    if (views_of(args, "48", &views) < 0) return NULL;
    const float *values = views.of[0].buf;
    double *numbers = views.of[1].buf;
    const Py_ssize_t count = count_of(views.of);
    const int fits = count == count_of(views.of + 1);
    for (Py_ssize_t i = 0; fits && i < count; i++) numbers[i] = shortest_of(values[i]);
    release(&views);
    if (!fits) PyErr_SetString(PyExc_ValueError, "arrays of one length expected");
    if (!fits) return NULL;
    Py_RETURN_NONE;
}
