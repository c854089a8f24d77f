// Kernels of the projectors for a GPU: twins of slices.py, turn.py, layout.py and splat.py.
//
// Every thread owns one element of the result and gathers what belongs to it in a fixed order:
// no atomics, so that results are the same bits in every run, adjoints included. Neighbouring
// threads own neighbours along the last axis. Positions are float64, as in the twins.
//
// Without CUDA the same source is plain C++, in which loops stand for the threads: this is how its
// logic is tested where there is no GPU.

#ifdef __CUDACC__
#define FUNCTION static __device__ __forceinline__
#define KERNEL extern "C" __global__ void
#define EACH(i, n) const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; if (i < n)
#else
#include <cmath>
using std::ceil; using std::fabs; using std::floor; using std::fmax; using std::fmin;
#define FUNCTION static inline
#define KERNEL extern "C" void
#define EACH(i, n) for (long long i = 0; i < n; ++i)
#endif

// Most fields that a thread adds up at once; kernels/twins.py calls once more for the rest.
#define FIELDS 8
#define PAD 3

FUNCTION float area(float t, float flat, float shorter, float steepness) {
    const float far = fabs(t);
    const float slope = fmin(fmax(far - flat, 0.0f), shorter);
    const float sum = fmin(far, flat) + slope - slope * slope * steepness;
    return t > 0.0f ? sum : -sum;
}

// Share of a column at the distance t from a voxel's shadow, whose boxes are `longer`, `shorter`.
FUNCTION float share(float t, float longer, float shorter) {
    if (fabs(t) >= 1.0f) return 0.0f;
    const float flat = 0.5f * (longer - shorter);
    const float steepness = 0.5f / fmax(shorter, 1e-30f);
    const float half = 1.0f - 0.5f * (longer + shorter);
    return (area(t + half, flat, shorter, steepness) - area(t - half, flat, shorter, steepness))
        / (longer * (2.0f * half));
}

// mixed (r, n) = components^T field; field (c, n), components (c, r).
KERNEL combine(const float* field, const float* components, float* mixed,
               int n_components, int n_mixed, long long n) {
    EACH(i, n * n_mixed) {
        const long long r = i / n, k = i % n;
        float sum = components[r] * field[k];
        for (int c = 1; c < n_components; ++c) sum += components[c * n_mixed + r] * field[c * n + k];
        mixed[i] = sum;
    }
}

// field (c, n) += components mixed (r, n).
KERNEL add_spread(const float* mixed, const float* components, float* field,
                  int n_components, int n_mixed, long long n) {
    EACH(i, n * n_components) {
        const long long c = i / n, k = i % n;
        float sum = field[i];
        for (int r = 0; r < n_mixed; ++r) sum += components[c * n_mixed + r] * mixed[r * n + k];
        field[i] = sum;
    }
}

// Solve (1/6, 4/6, 1/6) along the middle axis of lines (n_lines, n, n_rest), in place; the line's
// first element lies `first` elements into its block of `stride` elements.
KERNEL spline_lines(float* padded, const float* pivots, int n, long long n_outer, long long n_inner,
                    long long outer, long long step, long long first) {
    EACH(i, n_outer * n_inner) {
        float* line = padded + (i / n_inner) * outer + first + i % n_inner;
        line[0] *= 6.0f * pivots[0];
        for (int j = 1; j < n; ++j)
            line[j * step] = pivots[j] * (6.0f * line[j * step] - line[(j - 1) * step]);
        for (int j = n - 2; j >= 0; --j) line[j * step] -= pivots[j] * line[(j + 1) * step];
    }
}

// The cubic B-spline of tap `d` (0 to 3) of the point at the fraction `t` behind tap 1.
FUNCTION float tap(double t, int d) {
    if (d == 0) return (float)((1.0 - t) * (1.0 - t) * (1.0 - t) / 6.0);
    if (d == 1) return (float)((4.0 - 6.0 * t * t + 3.0 * t * t * t) / 6.0);
    if (d == 2) return (float)((1.0 + 3.0 * t + 3.0 * t * t - 3.0 * t * t * t) / 6.0);
    return (float)(t * t * t / 6.0);
}

// turned (r, m2, m1, nc) from spline coefficients padded (r, size2, size1, nc).
KERNEL turn_plane(const float* padded, float* turned, double cosine, double sine,
                  int low_in2, int low_in1, int low_out2, int low_out1,
                  int n_fields, int size2, int size1, int m2, int m1, int nc) {
    EACH(i, (long long)n_fields * m2 * m1 * nc) {
        const int k = i % nc;
        const double first = (int)(i / nc % m1) + low_out1;
        const double second = (int)(i / nc / m1 % m2) + low_out2;
        const float* plane = padded + i / nc / m1 / m2 * size2 * size1 * nc + k;
        const double at1 = cosine * first + sine * second - low_in1 + PAD;
        const double at2 = -sine * first + cosine * second - low_in2 + PAD;
        const int tap1 = (int)floor(at1) - 1, tap2 = (int)floor(at2) - 1;
        float sum = 0.0f;
        if (tap1 >= 0 && tap2 >= 0 && tap1 + 3 < size1 && tap2 + 3 < size2)
            for (int d = 0; d < 4; ++d)
                for (int e = 0; e < 4; ++e)
                    sum += tap(at2 - 1.0 - tap2, d) * tap(at1 - 1.0 - tap1, e)
                        * plane[((long long)(tap2 + d) * size1 + tap1 + e) * nc];
        turned[i] = sum;
    }
}

// Adjoint: every coefficient looks at the points of the turned grid that can see it.
KERNEL turn_plane_adjoint(const float* turned, float* padded, double cosine, double sine,
                          int low_in2, int low_in1, int low_out2, int low_out1,
                          int n_fields, int size2, int size1, int m2, int m1, int nc) {
    const double reach = 2.0 * (fabs(cosine) + fabs(sine));
    EACH(i, (long long)n_fields * size2 * size1 * nc) {
        const int k = i % nc, j1 = i / nc % size1, j2 = i / nc / size1 % size2;
        const float* plane = turned + i / nc / size1 / size2 * m2 * m1 * nc + k;
        const double a = j1 + low_in1 - PAD, b = j2 + low_in2 - PAD;
        const double c1 = cosine * a - sine * b - low_out1, c2 = sine * a + cosine * b - low_out2;
        const int from1 = (int)fmax(ceil(c1 - reach), 0.0), to1 = (int)fmin(floor(c1 + reach), m1 - 1.0);
        const int from2 = (int)fmax(ceil(c2 - reach), 0.0), to2 = (int)fmin(floor(c2 + reach), m2 - 1.0);
        float sum = 0.0f;
        for (int i2 = from2; i2 <= to2; ++i2)
            for (int i1 = from1; i1 <= to1; ++i1) {
                const double first = i1 + low_out1, second = i2 + low_out2;
                const double at1 = cosine * first + sine * second - low_in1 + PAD;
                const double at2 = -sine * first + cosine * second - low_in2 + PAD;
                const int tap1 = (int)floor(at1) - 1, tap2 = (int)floor(at2) - 1;
                const int d = j2 - tap2, e = j1 - tap1;
                if (d < 0 || d > 3 || e < 0 || e > 3) continue;
                if (tap1 < 0 || tap2 < 0 || tap1 + 3 >= size1 || tap2 + 3 >= size2) continue;
                sum += tap(at2 - 1.0 - tap2, d) * tap(at1 - 1.0 - tap1, e)
                    * plane[((long long)i2 * m1 + i1) * nc];
            }
        padded[i] = sum;
    }
}

// images (k, n_columns, ny) += projections of volume (r, nz, nx, ny).
KERNEL project_slices(const float* volume, const float* coefficients, const double* cosines,
                      const double* sines, const float* footprint, float* images,
                      int z_low, int x_low, int n_fields, int stride, int nz, int nx, int ny,
                      int n_images, int n_columns) {
    const int centre = (n_columns - 2) / 2 + 1;
    const long long size = (long long)nz * nx * ny;
    EACH(i, (long long)n_images * n_columns * ny) {
        const int y = i % ny, u = i / ny % n_columns, m = i / ny / n_columns;
        const double c = cosines[m], s = sines[m];
        // Along the axis on which the shadow moves faster, three voxels at most share a column.
        const bool along_x = fabs(c) >= fabs(s);
        const double fast = along_x ? c : s, slow = along_x ? s : c;
        const int n_fast = along_x ? nx : nz, n_slow = along_x ? nz : nx;
        const long long step = along_x ? ny : (long long)nx * ny;
        const long long next = along_x ? (long long)nx * ny : ny;
        float sum = 0.0f;
        for (int q = 0; q < n_slow; ++q) {
            const double start = c * x_low + s * z_low + centre + slow * q - u;
            const int first = (int)ceil(-start / fast - 1.0 / fabs(fast));
            for (int p = first < 0 ? 0 : first; p < first + 4 && p < n_fast; ++p) {
                const float w = share((float)(start + fast * p), footprint[2 * m], footprint[2 * m + 1]);
                if (w == 0.0f) continue;
                const float* voxel = volume + p * step + q * next + y;
                float value = 0.0f;
                for (int r = 0; r < n_fields; ++r) value += coefficients[m * stride + r] * voxel[r * size];
                sum += w * value;
            }
        }
        images[i] += sum;
    }
}

// Adjoint: overwrite volume (r, nz, nx, ny), r at most FIELDS.
KERNEL back_project_slices(const float* images, const float* coefficients, const double* cosines,
                           const double* sines, const float* footprint, float* volume,
                           int z_low, int x_low, int n_fields, int stride, int nz, int nx, int ny,
                           int n_images, int n_columns) {
    const int centre = (n_columns - 2) / 2 + 1;
    const long long size = (long long)nz * nx * ny;
    EACH(i, size) {
        const int y = i % ny, x = (int)(i / ny % nx) + x_low, z = (int)(i / ny / nx) + z_low;
        float sums[FIELDS] = {0.0f};
        for (int m = 0; m < n_images; ++m) {
            const double u = cosines[m] * x + sines[m] * z + centre;
            const int left = (int)floor(u);
            if (left < -1 || left >= n_columns) continue;
            const float t = (float)(u - left);
            const float* image = images + (long long)m * n_columns * ny + y;
            const float longer = footprint[2 * m], shorter = footprint[2 * m + 1];
            float value = 0.0f;
            if (left >= 0) value += share(t, longer, shorter) * image[(long long)left * ny];
            if (left + 1 < n_columns)
                value += share(t - 1.0f, longer, shorter) * image[(long long)(left + 1) * ny];
#ifdef __CUDACC__
#pragma unroll
#endif
            for (int r = 0; r < FIELDS; ++r)
                if (r < n_fields) sums[r] += coefficients[m * stride + r] * value;
        }
#ifdef __CUDACC__
#pragma unroll
#endif
        for (int r = 0; r < FIELDS; ++r)
            if (r < n_fields) volume[r * size + i] = sums[r];
    }
}

// sharp (k, nu, ny): images (k, nu + 2, ny) filtered by (-s, 1 + 2 s, -s) along both axes.
KERNEL sharpen(const float* images, const float* side, float rows, float* sharp,
               int n_images, int n_columns, int ny) {
    EACH(i, (long long)n_images * n_columns * ny) {
        const int y = i % ny, u = i / ny % n_columns, m = i / ny / n_columns;
        const float s = side[m];
        const float* image = images + ((long long)m * (n_columns + 2) + u) * ny;
        float sum = 0.0f;
        for (int d = -1; d <= 1; ++d) {
            const int at = y + d;
            if (at < 0 || at >= ny) continue;
            const float line = (1.0f + 2.0f * s) * image[ny + at] - s * (image[at] + image[2 * ny + at]);
            sum += (d == 0 ? 1.0f + 2.0f * rows : -rows) * line;
        }
        sharp[i] = sum;
    }
}

// Adjoint: overwrite images.
KERNEL sharpen_adjoint(const float* sharp, const float* side, float rows, float* images,
                       int n_images, int n_columns, int ny) {
    EACH(i, (long long)n_images * (n_columns + 2) * ny) {
        const int y = i % ny, u = i / ny % (n_columns + 2), m = i / ny / (n_columns + 2);
        const float s = side[m];
        float sum = 0.0f;
        for (int e = 0; e < 3; ++e) {
            const int from = u - e;
            if (from < 0 || from >= n_columns) continue;
            const float* image = sharp + ((long long)m * n_columns + from) * ny;
            float line = 0.0f;
            for (int d = -1; d <= 1; ++d)
                if (y + d >= 0 && y + d < ny)
                    line += (d == 0 ? 1.0f + 2.0f * rows : -rows) * image[y + d];
            sum += (e == 1 ? 1.0f + 2.0f * s : -s) * line;
        }
        images[i] = sum;
    }
}

// images (n, ny, nx): projections of field (c, nz, ny_, nx_) at any rotation. Every pixel walks
// along the axis of the volume that is nearest to the beam and takes, in each layer, the voxels
// whose shadows lie less than a pixel away. rows (n, 2, 3); offsets (n_sub, 3), x, y, z.
KERNEL splat(const float* field, const double* offsets, const double* rows, const float* weights,
             float* images, int n_components, int n_sub, int vz, int vy, int vx,
             int n_images, int ny, int nx) {
    EACH(i, (long long)n_images * ny * nx) {
        const int pu = i % nx - nx / 2, pv = i / nx % ny - ny / 2, m = i / nx / ny;
        const double* ru = rows + 6 * m;
        const double* rv = ru + 3;
        const double beam[3] = {ru[1] * rv[2] - ru[2] * rv[1], ru[2] * rv[0] - ru[0] * rv[2],
                                ru[0] * rv[1] - ru[1] * rv[0]};
        int w = 0;
        for (int d = 1; d < 3; ++d) if (fabs(beam[d]) > fabs(beam[w])) w = d;
        const int a = (w + 1) % 3, b = (w + 2) % 3;
        const int sizes[3] = {vx, vy, vz};
        const long long steps[3] = {1, vx, (long long)vx * vy};
        // In a layer (a, b) moves the shadow by this matrix, whose determinant is the beam's part.
        const double det = ru[a] * rv[b] - ru[b] * rv[a];
        const double reach_a = (fabs(rv[b]) + fabs(ru[b])) / fabs(det);
        const double reach_b = (fabs(rv[a]) + fabs(ru[a])) / fabs(det);
        float sum = 0.0f;
        for (int layer = 0; layer < sizes[w]; ++layer)
            for (int sub = 0; sub < n_sub; ++sub) {
                const double* o = offsets + 3 * sub;
                const double h = layer - sizes[w] / 2;
                const double u0 = pu - ru[w] * h - (ru[0] * o[0] + ru[1] * o[1] + ru[2] * o[2]);
                const double v0 = pv - rv[w] * h - (rv[0] * o[0] + rv[1] * o[1] + rv[2] * o[2]);
                const double at_a = (rv[b] * u0 - ru[b] * v0) / det + sizes[a] / 2;
                const double at_b = (ru[a] * v0 - rv[a] * u0) / det + sizes[b] / 2;
                const int from_a = (int)fmax(ceil(at_a - reach_a), 0.0);
                const int from_b = (int)fmax(ceil(at_b - reach_b), 0.0);
                const int to_a = (int)fmin(floor(at_a + reach_a), sizes[a] - 1.0);
                const int to_b = (int)fmin(floor(at_b + reach_b), sizes[b] - 1.0);
                for (int ib = from_b; ib <= to_b; ++ib)
                    for (int ia = from_a; ia <= to_a; ++ia) {
                        const double da = ia - sizes[a] / 2, db = ib - sizes[b] / 2;
                        const float fu = 1.0f - fabs((float)(ru[a] * da + ru[b] * db - u0));
                        const float fv = 1.0f - fabs((float)(rv[a] * da + rv[b] * db - v0));
                        if (fu <= 0.0f || fv <= 0.0f) continue;
                        const float* voxel = field + ia * steps[a] + ib * steps[b] + layer * steps[w];
                        float value = 0.0f;
                        for (int c = 0; c < n_components; ++c)
                            value += weights[m * n_components + c]
                                * voxel[c * (long long)vx * vy * vz];
                        sum += fu * fv * value;
                    }
            }
        images[i] = sum / n_sub;
    }
}

// Adjoint: overwrite components first to first + count - 1 of field (c, vz, vy, vx), count at most
// FIELDS.
KERNEL gather(const float* images, const double* offsets, const double* rows, const float* weights,
              float* field, int n_components, int first, int count, int n_sub,
              int vz, int vy, int vx, int n_images, int ny, int nx) {
    const long long size = (long long)vx * vy * vz;
    EACH(i, size) {
        const double px = (int)(i % vx) - vx / 2, py = (int)(i / vx % vy) - vy / 2;
        const double pz = (int)(i / vx / vy) - vz / 2;
        float sums[FIELDS] = {0.0f};
        for (int m = 0; m < n_images; ++m) {
            const double* ru = rows + 6 * m;
            const double* rv = ru + 3;
            const float* image = images + (long long)m * ny * nx;
            float total = 0.0f;
            for (int sub = 0; sub < n_sub; ++sub) {
                const double* o = offsets + 3 * sub;
                const double u = ru[0] * (px + o[0]) + ru[1] * (py + o[1]) + ru[2] * (pz + o[2]) + nx / 2;
                const double v = rv[0] * (px + o[0]) + rv[1] * (py + o[1]) + rv[2] * (pz + o[2]) + ny / 2;
                const int left = (int)floor(u), low = (int)floor(v);
                const float fu = (float)(u - left), fv = (float)(v - low);
                for (int dv = 0; dv < 2; ++dv)
                    for (int du = 0; du < 2; ++du) {
                        if (low + dv < 0 || low + dv >= ny || left + du < 0 || left + du >= nx) continue;
                        total += (dv ? fv : 1.0f - fv) * (du ? fu : 1.0f - fu)
                            * image[(long long)(low + dv) * nx + left + du];
                    }
            }
            total /= n_sub;
#ifdef __CUDACC__
#pragma unroll
#endif
            for (int c = 0; c < FIELDS; ++c)
                if (c < count) sums[c] += weights[m * n_components + first + c] * total;
        }
#ifdef __CUDACC__
#pragma unroll
#endif
        for (int c = 0; c < FIELDS; ++c)
            if (c < count) field[(first + c) * size + i] = sums[c];
    }
}
