/* The running sums of a batch in one pass over its features, in place of four tensor operations.

   With the reference C of each class, for the rows i of every class k:

       δ_i = z_i − C_k,    total_k += Σ_i δ_i,    square_k += Σ_i ‖δ_i‖².

   δ is rounded to the type of C. Sums stay in that type for at most MOST_ROWS rows, and longer only where total_k is of
   that type too; squares for at most NORM_BLOCK features. From there on everything is float64. Addresses come as
   integers, so that nothing depends on torch's ABI, and the module keeps to Python's limited API: one build serves all
   later versions. */

#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define MOST_ROWS 64
#define NORM_BLOCK 128
#define COLUMNS 512     /* features of one tile: their references and sums stay in the first-level cache */
#define CACHE_LINE 64   /* bytes */
#define FORESEEN 1024   /* features of a row that the processor fetches in time by itself, as one piece */
#define AHEAD 4         /* rows between the one that is added and the one that is asked for */
#define LEFT_OUT (-1.0) /* norm of a row that is not finite, until all of its class are added */

/* Two builds in one for x86 processors, of which the loader picks one: with fused multiply-add, twice as fast. */
#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && defined(__GLIBC__) && !defined(MULTIVERSIONED)
#define MULTIVERSIONED __attribute__((target_clones("fma", "default")))
#elif !defined(MULTIVERSIONED)
#define MULTIVERSIONED
#endif
#if defined(__GNUC__)
#define INLINE static inline __attribute__((always_inline)) /* into each of the two builds */
#else
#define INLINE static inline
#endif

typedef struct {
    int64_t num_rows, num_features, stride; /* of z: rows, columns, and elements from one row to the next */
    int64_t num_classes, num_groups;
    const int64_t *classes, *starts, *rows; /* group g: rows[starts[g]] … rows[starts[g + 1] − 1], all of classes[g] */
    const void *features, *reference;
    void *total;
    double *square;
    void *shifted;    /* takes δ, row after row, or NULL */
    double *kept;     /* counts, by class, the finite rows, where others are left out; NULL: all count */
    double *norms;    /* ‖δ_i‖² of every row */
} Batch;

/* A few rows of one class, and a few of their features. */
typedef struct {
    const int64_t *rows;
    int64_t num_rows, k, left, width;
} Tile;

/* Ask memory for what will be read soon: no processor foresees short pieces that lie far apart. */
INLINE void fetch(const void *first, int64_t size)
{
#if defined(__GNUC__)
    for (const char *line = first, *end = line + size; line < end; line += CACHE_LINE)
        __builtin_prefetch(line);
#endif
}

/* Row i, counted from the first of a tile on into the tile after it, and of that no further than the last. */
INLINE void fetch_row(const Batch *batch, const Tile *tile, const Tile *after, int64_t i, int64_t size)
{
    if (batch->num_features <= FORESEEN)
        return;
    if (i >= tile->num_rows) {
        i = i < tile->num_rows + after->num_rows ? i - tile->num_rows : after->num_rows - 1;
        tile = after;
    }
    fetch((const char *)batch->features + (tile->rows[i] * batch->stride + tile->left) * size, tile->width * size);
}

/* A part of a matrix with a row for each class. */
INLINE void fetch_class(const void *matrix, const Batch *batch, const Tile *tile, int64_t size)
{
    fetch((const char *)matrix + (tile->k * batch->num_features + tile->left) * size, tile->width * size);
}

#define DEFINE_KERNEL(NAME, FEATURE, STATE, TOTAL)                                                                     \
    /* Add a part of one row, and of two: each reference and sum is fetched and stored once for both of them. */       \
    INLINE double add_one_##NAME(const FEATURE *z, const STATE *reference, STATE *sums, int64_t width, double norm)    \
    {                                                                                                                  \
        for (int64_t start = 0; start < width; start += NORM_BLOCK) {                                                  \
            const int64_t stop = start + NORM_BLOCK < width ? start + NORM_BLOCK : width;                              \
            STATE square = 0;                                                                                          \
            _Pragma("omp simd reduction(+ : square)")                                                                  \
            for (int64_t j = start; j < stop; j++) {                                                                   \
                const STATE delta = (STATE)(z[j] - reference[j]);                                                      \
                sums[j] += delta;                                                                                      \
                square += delta * delta;                                                                               \
            }                                                                                                          \
            norm += square;                                                                                            \
        }                                                                                                              \
        return norm;                                                                                                   \
    }                                                                                                                  \
                                                                                                                       \
    INLINE void add_two_##NAME(const FEATURE *z, const FEATURE *y, const STATE *reference, STATE *sums, int64_t width, \
                               double *norm_z, double *norm_y)                                                         \
    {                                                                                                                  \
        for (int64_t start = 0; start < width; start += NORM_BLOCK) {                                                  \
            const int64_t stop = start + NORM_BLOCK < width ? start + NORM_BLOCK : width;                              \
            STATE square_z = 0, square_y = 0;                                                                          \
            _Pragma("omp simd reduction(+ : square_z, square_y)")                                                      \
            for (int64_t j = start; j < stop; j++) {                                                                   \
                const STATE delta_z = (STATE)(z[j] - reference[j]), delta_y = (STATE)(y[j] - reference[j]);            \
                sums[j] = (sums[j] + delta_z) + delta_y;                                                               \
                square_z += delta_z * delta_z;                                                                         \
                square_y += delta_y * delta_y;                                                                         \
            }                                                                                                          \
            *norm_z += square_z;                                                                                       \
            *norm_y += square_y;                                                                                       \
        }                                                                                                              \
    }                                                                                                                  \
                                                                                                                       \
    INLINE void keep_shifted_##NAME(const Batch *batch, const Tile *tile, int64_t row, const FEATURE *z)               \
    {                                                                                                                  \
        const STATE *reference = (const STATE *)batch->reference + tile->k * batch->num_features + tile->left;         \
        STATE *shifted = (STATE *)batch->shifted + row * batch->num_features + tile->left;                             \
        for (int64_t j = 0; j < tile->width; j++)                                                                      \
            shifted[j] = (STATE)(z[j] - reference[j]);                                                                 \
    }                                                                                                                  \
                                                                                                                       \
    MULTIVERSIONED static void add_##NAME(const Batch *batch, const Tile *tile, const Tile *after)                     \
    {                                                                                                                  \
        const int64_t width = tile->width, corner = tile->k * batch->num_features + tile->left;                        \
        const int64_t ahead = tile->num_rows < AHEAD ? tile->num_rows : AHEAD;                                         \
        const STATE *reference = (const STATE *)batch->reference + corner;                                             \
        const FEATURE *features = (const FEATURE *)batch->features + tile->left;                                       \
        TOTAL *total = (TOTAL *)batch->total + corner;                                                                 \
        STATE sums[COLUMNS];                                                                                           \
        memset(sums, 0, (size_t)width * sizeof(STATE));                                                                \
        fetch_class(batch->reference, batch, after, sizeof(STATE));                                                    \
        fetch_class(batch->total, batch, after, sizeof(TOTAL));                                                        \
        for (int64_t i = 0; i < tile->num_rows; i++) {                                                                 \
            const int64_t row = tile->rows[i], next = i + 1 < tile->num_rows ? tile->rows[i + 1] : row;                \
            const FEATURE *z = features + row * batch->stride, *y = features + next * batch->stride;                   \
            fetch_row(batch, tile, after, i + ahead, sizeof(FEATURE));                                                 \
            fetch_row(batch, tile, after, i + ahead + 1, sizeof(FEATURE));                                             \
            if (batch->norms[row] == LEFT_OUT)                                                                         \
                continue;                                                                                              \
            if (next == row || batch->norms[next] == LEFT_OUT)                                                         \
                batch->norms[row] = add_one_##NAME(z, reference, sums, width, batch->norms[row]);                      \
            else {                                                                                                     \
                add_two_##NAME(z, y, reference, sums, width, batch->norms + row, batch->norms + next);                 \
                if (batch->shifted)                                                                                    \
                    keep_shifted_##NAME(batch, tile, next, y);                                                         \
                i++;                                                                                                   \
            }                                                                                                          \
            if (batch->shifted)                                                                                        \
                keep_shifted_##NAME(batch, tile, row, z);                                                              \
        }                                                                                                              \
        for (int64_t j = 0; j < width; j++)                                                                            \
            total[j] += sums[j];                                                                                       \
    }                                                                                                                  \
                                                                                                                       \
    static int is_finite_##NAME(const Batch *batch, int64_t row, int64_t k)                                            \
    {                                                                                                                  \
        const FEATURE *z = (const FEATURE *)batch->features + row * batch->stride;                                     \
        const STATE *reference = (const STATE *)batch->reference + k * batch->num_features;                            \
        STATE zero = 0;                                                                                                \
        for (int64_t j = 0; j < batch->num_features; j++) {                                                            \
            const STATE delta = (STATE)(z[j] - reference[j]);                                                          \
            zero += delta - delta; /* NaN if δ is not finite */                                                        \
        }                                                                                                              \
        if (zero != 0 && batch->shifted)                                                                               \
            memset((STATE *)batch->shifted + row * batch->num_features, 0,                                             \
                   (size_t)batch->num_features * sizeof(STATE));                                                       \
        return zero == 0;                                                                                              \
    }

/* Features, and what they are shifted and added in: float32, float32 with float64 sums behind the batch, or float64. */
DEFINE_KERNEL(float_in_single, float, float, float)
DEFINE_KERNEL(float_in_mixed, float, float, double)
DEFINE_KERNEL(float_in_double, float, double, double)
DEFINE_KERNEL(double_in_single, double, float, float)
DEFINE_KERNEL(double_in_mixed, double, float, double)
DEFINE_KERNEL(double_in_double, double, double, double)

typedef struct {
    void (*add)(const Batch *, const Tile *tile, const Tile *after);
    int (*is_finite)(const Batch *, int64_t row, int64_t k);
} Kernel;

/* What there is of group g from its row `start` and its feature `left` on. */
static Tile tile_at(const Batch *batch, int64_t g, int64_t start, int64_t left)
{
    const int64_t height = batch->starts[g + 1] - start, width = batch->num_features - left;
    return (Tile){batch->rows + start, height < MOST_ROWS ? height : MOST_ROWS, batch->classes[g], left,
                  width < COLUMNS ? width : COLUMNS};
}

/* The tile that is added after that one; the last again behind the last. */
static Tile tile_after(const Batch *batch, int64_t g, int64_t start, int64_t left)
{
    if (left + COLUMNS < batch->num_features)
        return tile_at(batch, g, start, left + COLUMNS);
    if (start + MOST_ROWS < batch->starts[g + 1])
        return tile_at(batch, g, start + MOST_ROWS, 0);
    return g + 1 < batch->num_groups ? tile_at(batch, g + 1, batch->starts[g + 1], 0) : tile_at(batch, g, start, left);
}

static void add_batch(const Batch *batch, Kernel kernel)
{
    for (int64_t g = 0; g < batch->num_groups; g++) {
        const int64_t k = batch->classes[g], first = batch->starts[g], end = batch->starts[g + 1];
        for (int64_t i = first; i < end; i++) {
            const int64_t row = batch->rows[i];
            const int counts = !batch->kept || kernel.is_finite(batch, row, k);
            batch->norms[row] = counts ? 0.0 : LEFT_OUT;
        }
        for (int64_t start = first; start < end; start += MOST_ROWS)
            for (int64_t left = 0; left < batch->num_features; left += COLUMNS) {
                const Tile tile = tile_at(batch, g, start, left), after = tile_after(batch, g, start, left);
                kernel.add(batch, &tile, &after);
            }
        for (int64_t i = first; i < end; i++) {
            double *norm = batch->norms + batch->rows[i];
            if (*norm == LEFT_OUT) {
                *norm = 0.0;
                continue;
            }
            batch->square[k] += *norm;
            if (batch->kept)
                batch->kept[k] += 1.0;
        }
    }
}

/* Whether every index lies where it may: nothing is read or written beyond the tensors. */
static int is_sound(const Batch *batch)
{
    if (batch->num_rows < 0 || batch->num_features < 0 || batch->stride < 0 || batch->num_groups < 0)
        return 0;
    if (batch->starts[0] != 0 || batch->starts[batch->num_groups] != batch->num_rows)
        return 0;
    for (int64_t g = 0; g < batch->num_groups; g++)
        if (batch->starts[g] >= batch->starts[g + 1] || batch->classes[g] < 0 || batch->classes[g] >= batch->num_classes)
            return 0;
    for (int64_t i = 0; i < batch->num_rows; i++)
        if (batch->rows[i] < 0 || batch->rows[i] >= batch->num_rows)
            return 0;
    return 1;
}

/* The first row whose norm is not finite; −1 where all are. */
static int64_t first_not_finite(const Batch *batch)
{
    for (int64_t i = 0; i < batch->num_rows; i++)
        if (batch->norms[i] - batch->norms[i] != 0)
            return i;
    return -1;
}

static PyObject *add_rows(PyObject *self, PyObject *arguments)
{
    long long rows, features, stride, groups, classes;
    unsigned long long at[10];
    int double_features, double_state, double_partial, double_total, settle;
    (void)self;
    if (!PyArg_ParseTuple(arguments, "(LLL)KKpp(LKKK)(LKKKKKppp)", &rows, &features, &stride, at, at + 1,
                          &double_features, &settle, &groups, at + 2, at + 3, at + 4, &classes, at + 5, at + 6, at + 7,
                          at + 8, at + 9, &double_state, &double_partial, &double_total))
        return NULL;
#define ADDRESS(index) ((void *)(uintptr_t)at[index])
    Batch batch = {.num_rows = rows, .num_features = features, .stride = stride};
    batch.features = ADDRESS(0);
    batch.shifted = ADDRESS(1);
    batch.num_groups = groups;
    batch.classes = ADDRESS(2);
    batch.starts = ADDRESS(3);
    batch.rows = ADDRESS(4);
    batch.num_classes = classes;
    batch.reference = ADDRESS(5);
    batch.total = settle ? ADDRESS(7) : ADDRESS(6);
    batch.square = ADDRESS(8);
    batch.kept = ADDRESS(9);
    if (!is_sound(&batch)) {
        PyErr_SetString(PyExc_ValueError, "labels of a batch lie outside the classes, or do not match its rows");
        return NULL;
    }
#define KERNEL(NAME) {add_##NAME, is_finite_##NAME}
#define KERNELS(FEATURE) {KERNEL(FEATURE##_in_single), KERNEL(FEATURE##_in_mixed), KERNEL(FEATURE##_in_double)}
    static const Kernel kernels[2][3] = {KERNELS(float), KERNELS(double)};
    const Kernel *kernel = &kernels[double_features][double_state + (settle ? double_total : double_partial)];
    if (!(batch.norms = malloc((size_t)rows * sizeof(double) + 1)))
        return PyErr_NoMemory();
    int64_t spoilt;
    Py_BEGIN_ALLOW_THREADS
    add_batch(&batch, *kernel);
    spoilt = first_not_finite(&batch);
    free(batch.norms);
    Py_END_ALLOW_THREADS
    return PyLong_FromLongLong(spoilt);
}

/* Counting sort. Writes one after the other: how many rows each class has; the rows class by class, in their own order
   within a class; the classes that occur; where the rows of each begin, and where the last end. Returns how many classes
   occur; −1 if a label is none of them. `next` has room for a number of each class. */
static int64_t sort_rows(const int64_t *labels, int64_t num_rows, int64_t num_classes, int64_t *next, int64_t *counts)
{
    int64_t *rows = counts + num_classes, *present = rows + num_rows, num_present = 0, start = 0;
    memset(counts, 0, (size_t)num_classes * sizeof(int64_t));
    for (int64_t i = 0; i < num_rows; i++) {
        if (labels[i] < 0 || labels[i] >= num_classes)
            return -1;
        counts[labels[i]]++;
    }
    for (int64_t k = 0; k < num_classes; k++) {
        next[k] = start;
        start += counts[k];
        if (counts[k])
            present[num_present++] = k;
    }
    for (int64_t g = 0; g < num_present; g++)
        present[num_present + g] = next[present[g]];
    present[2 * num_present] = num_rows;
    for (int64_t i = 0; i < num_rows; i++)
        rows[next[labels[i]]++] = i;
    return num_present;
}

static PyObject *group_rows(PyObject *self, PyObject *arguments)
{
    long long num_rows, num_classes, largest = 0;
    unsigned long long labels, memory;
    (void)self;
    if (!PyArg_ParseTuple(arguments, "LLKK", &num_rows, &num_classes, &labels, &memory))
        return NULL;
    int64_t *counts = (int64_t *)(uintptr_t)memory, *next = malloc((size_t)num_classes * sizeof(int64_t) + 1);
    if (!next)
        return PyErr_NoMemory();
    const int64_t num_present = sort_rows((const int64_t *)(uintptr_t)labels, num_rows, num_classes, next, counts);
    free(next);
    for (int64_t k = 0; k < num_classes && num_present >= 0; k++)
        largest = counts[k] > largest ? counts[k] : largest;
    return Py_BuildValue("LL", (long long)num_present, num_present < 0 ? -1 : largest);
}

static PyMethodDef methods[] = {
    {"add_rows", add_rows, METH_VARARGS,
     "Add a batch to the sums: (rows, features, stride), addresses of features and shifted ones, whether the features\n"
     "are float64 and go to the totals, `Groups.places`, `Sums.places`.\n"
     "Returns the first row that is not finite, or whose squares overflow, and is not left out; -1 where none is."},
    {"group_rows", group_rows, METH_VARARGS,
     "Count and sort rows by class: rows, classes, address of the labels, address of the result.\n"
     "Returns how many classes occur, and the rows of the largest; -1 where a label is none of the classes."},
    {NULL, NULL, 0, NULL}};

static struct PyModuleDef module = {
    .m_base = PyModuleDef_HEAD_INIT, .m_name = "_kernel", .m_size = -1, .m_methods = methods};

PyMODINIT_FUNC PyInit__kernel(void) { return PyModule_Create(&module); }
