/* Distances to the centres of segments. */

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
