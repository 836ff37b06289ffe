/* States without their zeros: see `packing.py`, which does the same with arrays. */

#include "compiled.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define X86 1
#else
#define X86 0
#endif

#define HEAD 64                           /* bytes that are kept as they are */
#define ONES UINT64_C(0x0101010101010101) /* in each byte of a word */

static inline Py_ssize_t words_of(Py_ssize_t size) { return (size - HEAD + 7) / 8; }

/* A word with its bytes in the order of a little-endian processor. */
static inline uint64_t little(uint64_t word) {
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    return __builtin_bswap64(word);
#else
    return word;
#endif
}

/* Eight bytes, of which `left` are there; whatever the processor, the first is the lowest. */
static inline uint64_t word_at(const unsigned char *at, Py_ssize_t left) {
    uint64_t word = 0;
    if (left >= 8) {
        memcpy(&word, at, 8);
        return little(word);
    }
    for (Py_ssize_t i = 0; i < left; i++) word |= (uint64_t)at[i] << 8 * i;
    return word;
}

/* 1 in each byte that is not zero. */
static inline uint64_t marked(uint64_t word) {
    return ((((word & 0x7f * ONES) + 0x7f * ONES) | word) >> 7) & ONES;
}

/* A bit for each byte of `marked`, and back. */
static inline unsigned tag_of(uint64_t marks) { return (unsigned)(marks * 0x0102040810204080 >> 56); }

static inline uint64_t marks_of(unsigned tag) {
    return marked(tag * ONES & 0x8040201008040201);
}

/* Of each byte of `marked`, how many there are up to it. */
static inline uint64_t counted(uint64_t marks) { return marks * ONES; }

/* Gather the bits of a word that a mask chooses, or spread them: what processors with BMI2 have an
 * instruction for, which on the first ones of AMD is slower than to do without. In assembly: the
 * loops that they are in are compiled for any processor. */
#if X86
static inline uint64_t gathered(uint64_t word, uint64_t mask) {
    uint64_t bits;
    __asm__("pext %2, %1, %0" : "=r"(bits) : "r"(word), "r"(mask));
    return bits;
}

static inline uint64_t spread(uint64_t bits, uint64_t mask) {
    uint64_t word;
    __asm__("pdep %2, %1, %0" : "=r"(word) : "r"(bits), "r"(mask));
    return word;
}
#else
#define gathered(word, mask) 0 /* never called */
#define spread(bits, mask) 0
#endif

/* widest() -> of how many bytes at once this processor gathers bits, or spreads them, fast: 64, 8,
 * or 1 */
PyObject *packing_widest(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(none)) {
#if X86
    if (__builtin_cpu_supports("avx512vbmi2") && __builtin_cpu_supports("avx512bw"))
        return PyLong_FromLong(64);
    if (__builtin_cpu_supports("bmi2") && !__builtin_cpu_is("amdfam17h")) return PyLong_FromLong(8);
#endif
    return PyLong_FromLong(1);
}

/* How many bits of a byte are 1. */
static inline unsigned bits_of(unsigned byte) { return (unsigned)(counted(marks_of(byte)) >> 56); }

/* Bits of the map from word 64 x `chunk` on. */
static inline uint64_t chunk_of(const unsigned char *map, Py_ssize_t bytes, Py_ssize_t chunk) {
    return word_at(map + 8 * chunk, bytes - 8 * chunk);
}

/* Position of the lowest bit. */
static inline int lowest(uint64_t bits) {
#if defined(__GNUC__)
    return __builtin_ctzll(bits);
#else
    int position = 0;
    for (; !(bits & 1); bits >>= 1) position++;
    return position;
#endif
}

/* Write a State of `size` bytes to `to`, with room for as many bytes behind; how many bytes it has
 * become. Which words and bytes are zero cannot be foreseen, so nothing here branches on it. */
static inline Py_ssize_t packed(const unsigned char *state, Py_ssize_t size, unsigned char *to,
                                const int gathers) {
    const Py_ssize_t words = words_of(size), map = (words + 7) / 8, chunks = (words + 63) / 64;
    memcpy(to, state, HEAD);
    state += HEAD;
    size -= HEAD;
    unsigned char *marks = to + HEAD, *tag = marks + map;
    for (Py_ssize_t m = 0; m < map; m++) {
        const unsigned char *at = state + 64 * m;
        unsigned bits = 0;
        if (64 * m + 64 <= size)
            for (int w = 0; w < 8; w++) bits |= (unsigned)(word_at(at + 8 * w, 8) != 0) << w;
        else
            for (Py_ssize_t w = 8 * m; w < words; w++)
                bits |= (unsigned)(word_at(state + 8 * w, size - 8 * w) != 0) << w % 8;
        marks[m] = (unsigned char)bits;
    }
    unsigned char *byte = tag;
    for (Py_ssize_t m = 0; m < map; m++) byte += bits_of(marks[m]);
    for (Py_ssize_t c = 0; c < chunks; c++) {
        for (uint64_t left = chunk_of(marks, map, c); left != 0; left &= left - 1) {
            const Py_ssize_t at = 8 * (64 * c + lowest(left));
            const uint64_t word = word_at(state + at, size - at), found = marked(word);
            const uint64_t places = counted(found);
            *tag++ = (unsigned char)tag_of(found);
            /* Zeros are written where the next bytes will be. */
            if (gathers) {
                const uint64_t some = gathered(word, 0xff * found);
                memcpy(byte, &some, 8);
            } else
                for (int b = 0; b < 8; b++)
                    byte[places << 8 >> 8 * b & 0xff] = word >> 8 * b & 0xff;
            byte += places >> 56;
        }
    }
    return byte - to;
}

#if X86
#define WIDE __attribute__((target("avx512f,avx512bw,avx512vbmi2,popcnt")))

/* Which of 64 bytes are there, of so many. */
static inline uint64_t first_of(Py_ssize_t left) {
    return left >= 64 ? UINT64_MAX : (UINT64_C(1) << left) - 1;
}

/* `packed`, 64 bytes at once: eight words, whose tags are the bytes of one mask. The bytes that are
 * not zero wait behind until it is known how many tags are before them. */
WIDE static Py_ssize_t packed_wide(const unsigned char *state, Py_ssize_t size,
                                   unsigned char *to) {
    const Py_ssize_t map = (words_of(size) + 7) / 8;
    unsigned char *marks = to + HEAD, *tag = marks + map, *waiting = to + 2 * size, *byte = waiting;
    memcpy(to, state, HEAD);
    for (Py_ssize_t m = 0, at = HEAD; m < map; m++, at += 64) {
        const __m512i bytes = _mm512_maskz_loadu_epi8(first_of(size - at), state + at);
        const uint64_t there = _mm512_test_epi8_mask(bytes, bytes), words = marked(there);
        const uint64_t tags = gathered(there, 0xff * words);
        marks[m] = (unsigned char)tag_of(words);
        memcpy(tag, &tags, 8);
        tag += _mm_popcnt_u64(words);
        _mm512_storeu_si512(byte, _mm512_maskz_compress_epi8(there, bytes));
        byte += _mm_popcnt_u64(there);
    }
    memcpy(tag, waiting, byte - waiting);
    return tag - to + (byte - waiting);
}

/* `unpacked`, 64 bytes at once. */
WIDE static int unpacked_wide(const unsigned char *from, Py_ssize_t length, unsigned char *state,
                              Py_ssize_t size) {
    const Py_ssize_t words = words_of(size), map = (words + 7) / 8;
    if (length < HEAD + map) return 0;
    memcpy(state, from, HEAD);
    const unsigned char *marks = from + HEAD, *tag = marks + map, *byte = tag, *end = from + length;
    for (Py_ssize_t m = 0; m < map; m++) byte += _mm_popcnt_u32(marks[m]);
    if (byte > end || (words % 8 != 0 && marks[map - 1] >> words % 8 != 0)) return 0;
    for (Py_ssize_t m = 0, at = HEAD; m < map; m++, at += 64) {
        const uint64_t room = first_of(size - at);
        uint64_t tags = 0;
        memcpy(&tags, tag, end - tag < 8 ? end - tag : 8);
        tag += _mm_popcnt_u32(marks[m]);
        const uint64_t there = spread(tags, 0xff * marks_of(marks[m]));
        const Py_ssize_t count = _mm_popcnt_u64(there);
        if ((there & ~room) != 0 || end - byte < count) return 0;
        const __m512i some = _mm512_maskz_loadu_epi8(first_of(count), byte);
        _mm512_mask_storeu_epi8(state + at, room, _mm512_maskz_expand_epi8(there, some));
        byte += count;
    }
    return byte == end;
}
#else
#define packed_wide(state, size, to) 0 /* never called */
#define unpacked_wide(from, length, state, size) 0
#endif

/* pack(states, rows, size, widest) -> the bytes of some rows of uint8 [n, size] */
PyObject *packing_pack(PyObject *Py_UNUSED(module), PyObject *args) {
    Views views;
    if (views_of(args, "18--", &views) < 0) return NULL;
    const Py_ssize_t size = PyLong_AsSsize_t(PyTuple_GET_ITEM(args, 2));
    const long widest = PyLong_AsLong(PyTuple_GET_ITEM(args, 3));
    const Py_ssize_t count = count_of(views.of + 1);
    const int64_t *rows = views.of[1].buf;
    unsigned char *room = PyErr_Occurred() ? NULL : PyMem_Malloc(3 * size + 64);
    PyObject *made = room == NULL ? NULL : PyList_New(count);
    for (Py_ssize_t i = 0; made != NULL && i < count; i++) {
        const unsigned char *state = (unsigned char *)views.of[0].buf + rows[i] * size;
        const Py_ssize_t length = widest == 64  ? packed_wide(state, size, room)
                                  : widest == 8 ? packed(state, size, room, 1)
                                                : packed(state, size, room, 0);
        PyObject *bytes = PyBytes_FromStringAndSize((char *)room, length);
        if (bytes == NULL)
            Py_CLEAR(made);
        else
            PyList_SET_ITEM(made, i, bytes);
    }
    release(&views);
    if (made == NULL && !PyErr_Occurred()) PyErr_NoMemory();
    PyMem_Free(room);
    return made;
}

/* Read a State of `size` bytes; 0: these bytes are none. */
static inline int unpacked(const unsigned char *from, Py_ssize_t length, unsigned char *state,
                           Py_ssize_t size, const int gathers) {
    const Py_ssize_t words = words_of(size), map = (words + 7) / 8;
    if (length < HEAD + map) return 0;
    memcpy(state, from, HEAD);
    state += HEAD;
    size -= HEAD;
    memset(state, 0, size);
    const unsigned char *marks = from + HEAD, *tag = marks + map, *byte = tag, *end = from + length;
    const Py_ssize_t chunks = (words + 63) / 64;
    for (Py_ssize_t m = 0; m < map; m++) byte += bits_of(marks[m]);
    if (byte > end || (words % 8 != 0 && marks[map - 1] >> words % 8 != 0)) return 0;
    for (Py_ssize_t c = 0; c < chunks; c++) {
        for (uint64_t left = chunk_of(marks, map, c); left != 0; left &= left - 1) {
            const Py_ssize_t at = 8 * (64 * c + lowest(left));
            const unsigned found = *tag++;
            uint64_t word = 0;
            if (end - byte < 8) { /* the last ones: one by one, none behind the end */
                for (int b = 0; b < 8; b++) {
                    if (!(found >> b & 1)) continue;
                    if (byte == end) return 0;
                    word |= (uint64_t)*byte++ << 8 * b;
                }
            } else {
                const uint64_t there = marks_of(found), places = counted(there);
                if (gathers)
                    word = spread(word_at(byte, 8), 0xff * there);
                else
                    for (int b = 0; b < 8; b++)
                        word |= (uint64_t)byte[places << 8 >> 8 * b & 0xff] << 8 * b;
                word &= 0xff * there;
                byte += places >> 56;
            }
            if (at + 8 <= size) {
                word = little(word);
                memcpy(state + at, &word, 8);
            } else {
                if (found >> (size - at) != 0) return 0;
                for (Py_ssize_t b = 0; at + b < size; b++)
                    state[at + b] = (unsigned char)(word >> 8 * b);
            }
        }
    }
    return byte == end;
}

/* unpack(blobs, states, size, widest) -> the first blob that is no State, or -1
 *
 * `blobs`: a list of bytes, or None for an empty State; `states` uint8 [n, size], whatever is there
 * before. */
PyObject *packing_unpack(PyObject *Py_UNUSED(module), PyObject *args) {
    Views views;
    if (views_of(args, "-1--", &views) < 0) return NULL;
    PyObject *blobs = PyTuple_GET_ITEM(args, 0);
    const Py_ssize_t size = PyLong_AsSsize_t(PyTuple_GET_ITEM(args, 2));
    int failed = PyErr_Occurred() != NULL;
    if (!failed && (!PyList_Check(blobs) || size * PyList_GET_SIZE(blobs) != views.of[1].len)) {
        PyErr_SetString(PyExc_ValueError, "a list and a row for each of its items expected");
        failed = 1;
    }
    const long widest = PyLong_AsLong(PyTuple_GET_ITEM(args, 3));
    long wrong = -1;
    for (Py_ssize_t i = 0; !failed && wrong < 0 && i < PyList_GET_SIZE(blobs); i++) {
        PyObject *blob = PyList_GET_ITEM(blobs, i);
        unsigned char *state = (unsigned char *)views.of[1].buf + i * size;
        if (blob == Py_None) {
            memset(state, 0, size);
            continue;
        }
        char *bytes;
        Py_ssize_t length;
        failed = PyBytes_AsStringAndSize(blob, &bytes, &length) < 0;
        if (failed) break;
        const unsigned char *from = (unsigned char *)bytes;
        const int good = widest == 64  ? unpacked_wide(from, length, state, size)
                         : widest == 8 ? unpacked(from, length, state, size, 1)
                                       : unpacked(from, length, state, size, 0);
        if (!good) wrong = (long)i;
    }
    release(&views);
    return failed ? NULL : PyLong_FromLong(wrong);
}
