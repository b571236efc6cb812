// SPDX-License-Identifier: MIT
import CRWKVKernels
import Glibc

// One head's inputs for each recurrence, how to call the kernel on them, and the formulas written out plainly for
// any floating-point type. Token t starts at t · stride; the gap between N and stride is NaN and must not be read. There
// is none behind the last token.

/// Result of T tokens.
struct HeadResult<Real: BinaryFloatingPoint> {
  var y: [Real]
  var state: [Real]
}

extension BinaryFloatingPoint {
  static func exponential(_ x: Self) -> Self { Self(exp(Double(x))) }
  static func logistic(_ x: Self) -> Self {
    Self(x < 0 ? exp(Double(x)) / (1 + exp(Double(x))) : 1 / (1 + exp(-Double(x))))
  }
}

/// T rows of N numbers at a distance of `stride`.
private func rows(_ numbers: inout Random, _ T: Int, _ N: Int, _ stride: Int, _ scale: Float) -> [Float] {
  (0..<T).flatMap { _ in
    numbers.floats(N, in: -scale...scale) + [Float](repeating: .nan, count: stride - N)
  }.dropLast(stride - N)
}

private func groupNorm<Real: BinaryFloatingPoint>(
  _ y: [Real], _ weight: [Float], _ bias: [Float], _ epsilon: Float
) -> [Real] {
  let mean = y.reduce(0, +) / Real(y.count)
  let variance = y.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / Real(y.count)
  let scale = 1 / (variance + Real(epsilon)).squareRoot()
  return y.indices.map { (y[$0] - mean) * scale * Real(weight[$0]) + Real(bias[$0]) }
}

struct Wkv7Case {
  let T: Int, N: Int, stride: Int, later: Bool
  var r, k, v, g, decay, rate, vMix, vFirst: [Float]
  var w0, a0, v0, kk, ka, rk, weight, bias, state: [Float]
  let epsilon: Float = 64e-5

  init(T: Int, N: Int, later: Bool, seed: Int, logitScale: Float = 3) {
    var numbers = Random(seed)
    (self.T, self.N, self.later) = (T, N, later)
    stride = N + 5
    (r, k, v) = (
      rows(&numbers, T, N, stride, 1), rows(&numbers, T, N, stride, 1), rows(&numbers, T, N, stride, 1)
    )
    (g, vMix) = (rows(&numbers, T, N, stride, 2), rows(&numbers, T, N, stride, logitScale))
    (decay, rate) = (rows(&numbers, T, N, stride, logitScale), rows(&numbers, T, N, stride, logitScale))
    vFirst = rows(&numbers, T, N, stride, 1)
    (w0, a0, v0) = (numbers.floats(N), numbers.floats(N), numbers.floats(N))
    (kk, ka, rk) = (numbers.floats(N, in: 0.3...1), numbers.floats(N, in: 0...1), numbers.floats(N))
    (weight, bias, state) = (numbers.floats(N, in: 0.5...2), numbers.floats(N), numbers.floats(N * N))
  }

  /// The kernel, `block` tokens at a time. The state of the result is [key, value].
  func run(_ table: String, block: Int? = nil) -> (result: HeadResult<Float>, vFirst: [Float], guards: Bool) {
    let inputs = [r, k, v, g, decay, rate, vMix, w0, a0, v0, kk, ka, rk, weight, bias].map(Floats.init)
    let first = Floats(vFirst), state = Floats(state), y = Floats(zeros: (T - 1) * stride + N)
    for t in Swift.stride(from: 0, to: T, by: block ?? T) {
      func row(_ i: Int) -> UnsafePointer<Float> { UnsafePointer(inputs[i].pointer + t * stride) }
      func channels(_ i: Int) -> UnsafePointer<Float> { UnsafePointer(inputs[i].pointer) }
      var head = rk_wkv7(
        T: min(block ?? T, T - t), N: N, stride: stride, r: row(0), k: row(1), v: row(2), g: row(3),
        decay: row(4),
        rate: row(5), v_mix: later ? row(6) : nil, v_first: first.pointer + t * stride, w0: channels(7),
        a0: channels(8), v0: later ? channels(9) : nil, k_k: channels(10), k_a: channels(11),
        r_k: channels(12),
        ln_weight: channels(13), ln_bias: channels(14), epsilon: epsilon, state: state.pointer,
        y: y.pointer + t * stride)
      kernels(table).wkv7(&head)
    }
    let guards = (inputs + [first, state, y]).allSatisfy(\.guardsIntact)
    return (HeadResult(y: y.values, state: state.values), first.values, guards)
  }

  /// The formulas of RWKV-7 with S[value][key]; the state of the result is transposed to [key, value].
  func plain<Real: BinaryFloatingPoint>(_: Real.Type) -> HeadResult<Real> {
    var S = (0..<N).map { i in (0..<N).map { j in Real(state[j * N + i]) } }
    var y = [Real](repeating: 0, count: T * stride)
    for t in 0..<T {
      func at(_ x: [Float], _ i: Int) -> Real { Real(x[t * stride + i]) }
      let logit = (0..<N).map { Real(w0[$0]) + at(decay, $0) }
      let w = logit.map { Real.exponential(-Real.exponential(-0.5) * .logistic($0)) }
      let a = (0..<N).map { Real.logistic(Real(a0[$0]) + at(rate, $0)) }
      var key = (0..<N).map { at(self.k, $0) * Real(kk[$0]) }
      let norm = key.reduce(0) { $0 + $1 * $1 }.squareRoot()
      key = key.map { $0 / max(norm, 1e-12) }
      let k = (0..<N).map { at(self.k, $0) * (1 + (a[$0] - 1) * Real(ka[$0])) }
      var v = (0..<N).map { at(self.v, $0) }
      if later {
        let mix = (0..<N).map { Real.logistic(Real(v0[$0]) + at(vMix, $0)) }
        for i in 0..<N { v[i] += (at(vFirst, i) - v[i]) * mix[i] }
      }
      var out = [Real](repeating: 0, count: N)
      for i in 0..<N {
        let found = (0..<N).reduce(Real(0)) { $0 + S[i][$1] * key[$1] }
        for j in 0..<N { S[i][j] = S[i][j] * w[j] - found * (key[j] * a[j]) + v[i] * k[j] }
        out[i] = (0..<N).reduce(0) { $0 + S[i][$1] * at(r, $1) }
      }
      out = groupNorm(out, weight, bias, epsilon)
      let bonus = (0..<N).reduce(Real(0)) { $0 + at(r, $1) * k[$1] * Real(rk[$1]) }
      for i in 0..<N { y[t * stride + i] = (out[i] + bonus * v[i]) * at(g, i) }
    }
    return HeadResult(y: y, state: (0..<N).flatMap { j in (0..<N).map { i in S[i][j] } })
  }
}

struct Wkv6Case {
  let T: Int, N: Int, stride: Int, perToken: Bool, gated: Bool
  var r, k, v, g, w, u, weight, bias, state: [Float]
  let epsilon: Float = 64e-5

  init(T: Int, N: Int, perToken: Bool, gated: Bool, seed: Int) {
    var numbers = Random(seed)
    (self.T, self.N, self.perToken, self.gated) = (T, N, perToken, gated)
    stride = N + 3
    (r, k, v) = (
      rows(&numbers, T, N, stride, 1), rows(&numbers, T, N, stride, 1), rows(&numbers, T, N, stride, 1)
    )
    g = rows(&numbers, T, N, stride, 4)
    w = rows(&numbers, perToken ? T : 1, N, stride, 0.4).map { $0 + 0.55 }
    (u, weight, bias, state) = (
      numbers.floats(N), numbers.floats(N, in: 0.5...2), numbers.floats(N), numbers.floats(N * N)
    )
  }

  func run(_ table: String, block: Int? = nil) -> (result: HeadResult<Float>, guards: Bool) {
    let inputs = [r, k, v, g, w, u, weight, bias].map(Floats.init)
    let state = Floats(state), y = Floats(zeros: (T - 1) * stride + N)
    for t in Swift.stride(from: 0, to: T, by: block ?? T) {
      func row(_ i: Int) -> UnsafePointer<Float> { UnsafePointer(inputs[i].pointer + t * stride) }
      func channels(_ i: Int) -> UnsafePointer<Float> { UnsafePointer(inputs[i].pointer) }
      var head = rk_wkv6(
        T: min(block ?? T, T - t), N: N, stride: stride, r: row(0), k: row(1), v: row(2),
        g: gated ? row(3) : nil,
        w: perToken ? row(4) : channels(4), w_stride: perToken ? stride : 0, u: channels(5),
        ln_weight: channels(6),
        ln_bias: channels(7), epsilon: epsilon, state: state.pointer, y: y.pointer + t * stride)
      kernels(table).wkv6(&head)
    }
    return (HeadResult(y: y.values, state: state.values), (inputs + [state, y]).allSatisfy(\.guardsIntact))
  }

  func plain<Real: BinaryFloatingPoint>(_: Real.Type) -> HeadResult<Real> {
    var S = (0..<N).map { i in (0..<N).map { j in Real(state[i * N + j]) } }
    var y = [Real](repeating: 0, count: T * stride)
    for t in 0..<T {
      func at(_ x: [Float], _ i: Int) -> Real { Real(x[t * stride + i]) }
      var out = [Real](repeating: 0, count: N)
      for j in 0..<N {
        for i in 0..<N {
          let kv = at(k, i) * at(v, j)
          out[j] += at(r, i) * (S[i][j] + Real(u[i]) * kv)
          S[i][j] = Real(w[perToken ? t * stride + i : i]) * S[i][j] + kv
        }
      }
      out = groupNorm(out, weight, bias, epsilon)
      for j in 0..<N { y[t * stride + j] = out[j] * (gated ? at(g, j) * .logistic(at(g, j)) : 1) }
    }
    return HeadResult(y: y, state: S.flatMap { $0 })
  }
}

struct Wkv4Case {
  let T: Int, n: Int, stride: Int
  var r, k, v, w, u: [Float]

  init(T: Int, n: Int, seed: Int, exponentScale: Float = 3) {
    var numbers = Random(seed)
    (self.T, self.n) = (T, n)
    stride = n + 3
    (r, v) = (rows(&numbers, T, n, stride, 4), rows(&numbers, T, n, stride, 1))
    k = rows(&numbers, T, n, stride, exponentScale)
    (w, u) = (numbers.floats(n, in: -3 ... -0.01), numbers.floats(n))
  }

  /// The state of the result is aa, bb, pp.
  func run(_ table: String, block: Int? = nil) -> (result: HeadResult<Float>, guards: Bool) {
    let inputs = [r, k, v, w, u].map(Floats.init)
    let state = [Floats(zeros: n), Floats(zeros: n), Floats([Float](repeating: -1e30, count: n))]
    let y = Floats(zeros: (T - 1) * stride + n)
    for t in Swift.stride(from: 0, to: T, by: block ?? T) {
      func row(_ i: Int) -> UnsafePointer<Float> { UnsafePointer(inputs[i].pointer + t * stride) }
      var channels = rk_wkv4(
        T: min(block ?? T, T - t), n: n, stride: stride, r: row(0), k: row(1), v: row(2),
        w: UnsafePointer(inputs[3].pointer), u: UnsafePointer(inputs[4].pointer), aa: state[0].pointer,
        bb: state[1].pointer, pp: state[2].pointer, y: y.pointer + t * stride)
      kernels(table).wkv4(&channels)
    }
    let guards = (inputs + state + [y]).allSatisfy(\.guardsIntact)
    return (HeadResult(y: y.values, state: state.flatMap(\.values)), guards)
  }

  /// The weighted average itself, without the running maximum: only for exponents that a Double or Float can hold.
  func plain<Real: BinaryFloatingPoint>(_: Real.Type) -> HeadResult<Real> {
    var y = [Real](repeating: 0, count: T * stride)
    for i in 0..<n {
      var (above, below) = (Real(0), Real(0))
      for t in 0..<T {
        let at = t * stride + i
        let now = Real.exponential(Real(u[i]) + Real(k[at]))
        y[at] = .logistic(Real(r[at])) * (above + now * Real(v[at])) / (below + now)
        above = .exponential(Real(w[i])) * above + .exponential(Real(k[at])) * Real(v[at])
        below = .exponential(Real(w[i])) * below + .exponential(Real(k[at]))
      }
    }
    return HeadResult(y: y, state: [])
  }
}
