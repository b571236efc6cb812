// SPDX-License-Identifier: MIT
// The RWKV-7 recurrence, forward and backward, for head size 64 on the CPU.
//
// Per head, with the state kept transposed, S[j][i] (key j, value i):
//     s_i  = sum_j S[j][i] a_j
//     S[j][i] <- S[j][i] w_j + s_i b_j + v_i k_j
//     y_i  = sum_j S[j][i] r_j
// where a = -kk and b = kk . a_gate. All arrays are float32, [B, T, H, 64] contiguous; the states are [B, H, 64, 64].
// The forward pass keeps the state in front of every 16th token; the backward pass recomputes the ones between.
// Build: g++ -O3 -march=native -ffast-math -fopenmp -shared -fPIC wkv7.cpp -o wkv7.so
#include <cstring>
#include <memory>

namespace {
constexpr int N = 64, CHUNK = 16, LANES = 16, PARTS = N / LANES;
typedef float Lanes __attribute__((vector_size(4 * LANES)));
typedef Lanes Row[PARTS];
typedef Row State[N];

/// The 64 numbers at `from`, which need not be aligned.
inline void load(Row &to, const float *from) { std::memcpy(to, from, sizeof to); }

/// One token: `next` receives the new state, `sum` s_i, `out` what the new state gives for r if there is one.
inline void advance(const State &old, State &next, Row &sum, const float *w, const float *k, const float *v,
                    const float *a, const float *b, const float *r = nullptr, float *out = nullptr) {
    Row value, y = {}, s = {};
    load(value, v);
    for (int j = 0; j < N; j++)
        for (int p = 0; p < PARTS; p++) s[p] += old[j][p] * a[j];
    for (int j = 0; j < N; j++)
        for (int p = 0; p < PARTS; p++) {
            next[j][p] = old[j][p] * w[j] + s[p] * b[j] + value[p] * k[j];
            if (r) y[p] += next[j][p] * r[j];
        }
    std::memcpy(sum, s, sizeof s);
    if (r) std::memcpy(out, y, sizeof y);
}

/// Lanes i of x[0] and x[1] added to those M further, the ones of x[1] put where i has the bit M.
template <int M> inline Lanes fold(const Lanes &x, const Lanes &y) {
    typedef int Places __attribute__((vector_size(4 * LANES)));
    Places first, second;
    for (int i = 0; i < LANES; i++) {
        first[i] = i & M ? LANES + i - M : i;
        second[i] = i & M ? LANES + i : i + M;
    }
    return __builtin_shuffle(x, y, first) + __builtin_shuffle(x, y, second);
}

/// The sums of the lanes of each of 64 vectors.
inline void sums(const Lanes (&x)[N], float *out) {
    for (int at = 0; at < N; at += LANES) {
        Lanes a[8], b[4], c[2];
        for (int n = 0; n < 8; n++) a[n] = fold<1>(x[at + 2 * n], x[at + 2 * n + 1]);
        for (int n = 0; n < 4; n++) b[n] = fold<2>(a[2 * n], a[2 * n + 1]);
        for (int n = 0; n < 2; n++) c[n] = fold<4>(b[2 * n], b[2 * n + 1]);
        const Lanes found = fold<8>(c[0], c[1]);
        std::memcpy(out + at, &found, sizeof found);
    }
}
}  // namespace

extern "C" void wkv7_forward(int B, int T, int H, const float *r, const float *w, const float *k, const float *v,
                             const float *a, const float *b, const float *state, float *y, float *kept,
                             float *last) {
    const int chunks = (T + CHUNK - 1) / CHUNK;
#pragma omp parallel for schedule(static)
    for (int bh = 0; bh < B * H; bh++) {
        State S;
        Row s;
        std::memcpy(S, state + size_t(bh) * N * N, sizeof S);
        for (int t = 0; t < T; t++) {
            const size_t at = ((size_t(bh / H) * T + t) * H + bh % H) * N;
            if (t % CHUNK == 0) std::memcpy(kept + (size_t(bh) * chunks + t / CHUNK) * N * N, S, sizeof S);
            advance(S, S, s, w + at, k + at, v + at, a + at, b + at, r + at, y + at);
        }
        std::memcpy(last + size_t(bh) * N * N, S, sizeof S);
    }
}

namespace {
struct Gradients { float *r, *w, *k, *v, *a, *b; };

/// One token backwards: `D` is the gradient of the state after the token and becomes that of the state before it.
inline void retreat(const State &old, const State &now, State &D, const Row &s, const float *dy, const float *r,
                    const float *w, const float *k, const float *v, const float *a, const float *b,
                    const Gradients &g) {
    Row dyi, vi, ds = {}, dv = {};
    Lanes dr[N], dw[N], dk[N], db[N], da[N];
    load(dyi, dy), load(vi, v);
    for (int j = 0; j < N; j++) {
        Lanes r_ = {}, w_ = {}, k_ = {}, b_ = {};
        for (int p = 0; p < PARTS; p++) {
            const Lanes d = D[j][p] + dyi[p] * r[j];
            D[j][p] = d;
            r_ += now[j][p] * dyi[p];
            w_ += d * old[j][p];
            k_ += d * vi[p];
            b_ += d * s[p];
            ds[p] += d * b[j];
            dv[p] += d * k[j];
        }
        dr[j] = r_, dw[j] = w_, dk[j] = k_, db[j] = b_;
    }
    for (int j = 0; j < N; j++) {
        Lanes a_ = {};
        for (int p = 0; p < PARTS; p++) {
            a_ += old[j][p] * ds[p];
            D[j][p] = D[j][p] * w[j] + ds[p] * a[j];
        }
        da[j] = a_;
    }
    sums(dr, g.r), sums(dw, g.w), sums(dk, g.k), sums(da, g.a), sums(db, g.b);
    std::memcpy(g.v, dv, sizeof dv);
}
}  // namespace
extern "C" void wkv7_backward(int B, int T, int H, const float *r, const float *w, const float *k, const float *v,
                              const float *a, const float *b, const float *kept, const float *dy, float *dr,
                              float *dw, float *dk, float *dv, float *da, float *db) {
    const int chunks = (T + CHUNK - 1) / CHUNK;
#pragma omp parallel
    {
        struct Scratch { State states[CHUNK + 1], D; Row s[CHUNK]; };
        auto scratch = std::make_unique<Scratch>();
        State *states = scratch->states;
#pragma omp for schedule(static)
        for (int bh = 0; bh < B * H; bh++) {
            std::memset(scratch->D, 0, sizeof scratch->D);
            for (int c = chunks - 1; c >= 0; c--) {
                const int first = c * CHUNK, count = T - first < CHUNK ? T - first : CHUNK;
                const size_t base = ((size_t(bh / H) * T + first) * H + bh % H) * N, step = size_t(H) * N;
                std::memcpy(states[0], kept + (size_t(bh) * chunks + c) * N * N, sizeof states[0]);
                for (int t = 0; t < count; t++) {
                    const size_t at = base + t * step;
                    advance(states[t], states[t + 1], scratch->s[t], w + at, k + at, v + at, a + at, b + at);
                }
                for (int t = count - 1; t >= 0; t--) {
                    const size_t at = base + t * step;
                    const Gradients g{dr + at, dw + at, dk + at, dv + at, da + at, db + at};
                    retreat(states[t], states[t + 1], scratch->D, scratch->s[t], dy + at, r + at, w + at, k + at,
                            v + at, a + at, b + at, g);
                }
            }
        }
    }
}
