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
constexpr int N = 64, CHUNK = 16;
typedef float State[N][N];

/// One token: `next` receives the new state, s_i is left in `s`.
inline void advance(const State &old, State &next, float *__restrict s, const float *__restrict w,
                    const float *__restrict k, const float *__restrict v, const float *__restrict a,
                    const float *__restrict b) {
    alignas(64) float sum[N] = {};
    for (int j = 0; j < N; j++)
        for (int i = 0; i < N; i++) sum[i] += old[j][i] * a[j];
    for (int j = 0; j < N; j++)
        for (int i = 0; i < N; i++) next[j][i] = old[j][i] * w[j] + sum[i] * b[j] + v[i] * k[j];
    std::memcpy(s, sum, sizeof sum);
}
}  // namespace

extern "C" void wkv7_forward(int B, int T, int H, const float *r, const float *w, const float *k, const float *v,
                             const float *a, const float *b, const float *state, float *y, float *kept,
                             float *last) {
    const int chunks = (T + CHUNK - 1) / CHUNK;
#pragma omp parallel for schedule(static)
    for (int bh = 0; bh < B * H; bh++) {
        alignas(64) State S;
        alignas(64) float s[N];
        std::memcpy(S, state + size_t(bh) * N * N, sizeof S);
        for (int t = 0; t < T; t++) {
            const size_t at = ((size_t(bh / H) * T + t) * H + bh % H) * N;
            if (t % CHUNK == 0) std::memcpy(kept + (size_t(bh) * chunks + t / CHUNK) * N * N, S, sizeof S);
            advance(S, S, s, w + at, k + at, v + at, a + at, b + at);
            alignas(64) float out[N] = {};
            for (int j = 0; j < N; j++)
                for (int i = 0; i < N; i++) out[i] += S[j][i] * r[at + j];
            std::memcpy(y + at, out, sizeof out);
        }
        std::memcpy(last + size_t(bh) * N * N, S, sizeof S);
    }
}

namespace {
struct Gradients { float *r, *w, *k, *v, *a, *b; };

/// One token backwards: `D` is the gradient of the state after the token and becomes that of the state before it.
inline void retreat(const State &old, const State &now, State &D, const float *s, const float *dy, const float *r,
                    const float *w, const float *k, const float *v, const float *a, const float *b,
                    const Gradients &g) {
    alignas(64) float ds[N] = {}, dv[N] = {};
    for (int j = 0; j < N; j++) {
        float dr = 0, dw = 0, dk = 0, db = 0;
        for (int i = 0; i < N; i++) {
            const float d = D[j][i] + dy[i] * r[j];
            D[j][i] = d;
            dr += now[j][i] * dy[i];
            dw += d * old[j][i];
            dk += d * v[i];
            db += d * s[i];
            ds[i] += d * b[j];
            dv[i] += d * k[j];
        }
        g.r[j] = dr, g.w[j] = dw, g.k[j] = dk, g.b[j] = db;
    }
    for (int j = 0; j < N; j++) {
        float da = 0;
        for (int i = 0; i < N; i++) {
            da += old[j][i] * ds[i];
            D[j][i] = D[j][i] * w[j] + ds[i] * a[j];
        }
        g.a[j] = da;
    }
    std::memcpy(g.v, dv, sizeof dv);
}
}  // namespace

extern "C" void wkv7_backward(int B, int T, int H, const float *r, const float *w, const float *k, const float *v,
                              const float *a, const float *b, const float *kept, const float *dy, float *dr,
                              float *dw, float *dk, float *dv, float *da, float *db) {
    const int chunks = (T + CHUNK - 1) / CHUNK;
#pragma omp parallel
    {
        struct alignas(64) Scratch { State states[CHUNK + 1], D; float s[CHUNK][N]; };
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
