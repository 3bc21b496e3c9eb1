// The transformer blocks for one live frame of B streams, on a CPU: every product from one register tile.
//
// Letters: B streams, P tokens of a frame, R = B * P rows, C width, H heads, D = 64 channels of a head, S tokens held.
// T is the type that is multiplied (float, or bf16 where the processor multiplies it); sums are float throughout, and
// so is the residual stream. K is the type in which keys and values are kept: float, bf16 or int8.
//
// A matrix (k, n) is packed into panels of kCols columns, [n / kCols][k / group<T>][kCols][group<T>]: one step of the
// register tile reads it from front to back. Weights are packed once. Keys are kept as packed columns (k = D, n = S),
// values as packed rows (k = S, n = D), so attention reads the memory as it lies.
//
// Weights may be int8, with one unit a column; the rows they multiply are then rounded to bytes, each row in its own
// range: x = unit * byte + least.
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16, kVectors = 4;
#elif defined(__AVX2__)
constexpr int kLanes = 8, kVectors = 2;
#else
constexpr int kLanes = 4, kVectors = 4;
#endif
constexpr int kRows = 6;                     // of the register tile
constexpr int kCols = kLanes * kVectors;     // of the register tile
constexpr int kHead = 64;                    // D
constexpr int kChunk = 512;                  // keys whose scores are held at once
constexpr int kTile = 17 * kRows;            // rows of a task
static_assert(kHead % kCols == 0 && kChunk % kCols == 0);

typedef float Vec __attribute__((vector_size(kLanes * 4), aligned(4)));
typedef int32_t IntVec __attribute__((vector_size(kLanes * 4), aligned(4)));
struct bf16 {
  uint16_t bits;
};

template <class T>
constexpr int group = 4 / int(sizeof(T));  // numbers along k that one lane multiplies and adds up

inline Vec load(const float* p) { return *reinterpret_cast<const Vec*>(p); }
inline void store(float* p, Vec v) { *reinterpret_cast<Vec*>(p) = v; }
inline Vec all(float x) { return Vec{} + x; }
inline Vec larger(Vec a, Vec b) { return a > b ? a : b; }
inline Vec smaller(Vec a, Vec b) { return a < b ? a : b; }

inline float to_float(float x) { return x; }
inline float to_float(int8_t x) { return x; }
inline float to_float(bf16 x) {
  uint32_t bits = uint32_t(x.bits) << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}
inline void put(float* p, float x) { *p = x; }
inline void put(bf16* p, float x) {  // to the nearest, ties to even
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  p->bits = uint16_t((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}
inline void put(int8_t* p, float x) { *p = int8_t(std::lrintf(std::min(127.f, std::max(-127.f, x)))); }

inline void put(float* p, Vec v) { store(p, v); }
inline void put(bf16* p, Vec v) {
#if defined(__AVX512BF16__)
  auto half = _mm512_cvtneps_pbh(__m512(v));
  std::memcpy(p, &half, 2 * kLanes);
#else
  for (int i = 0; i < kLanes; ++i) put(p + i, v[i]);
#endif
}

// ---- elementwise ----

#if defined(__AVX512F__)
inline Vec nearest(Vec x) { return Vec(_mm512_roundscale_ps(__m512(x), _MM_FROUND_TO_NEAREST_INT)); }
inline Vec times_two_to(Vec whole, Vec y) { return Vec(_mm512_scalef_ps(__m512(y), __m512(whole))); }
#else
inline Vec nearest(Vec x) { return (x + 12582912.f) - 12582912.f; }  // 1.5 * 2^23: no bits are left for fractions
inline Vec times_two_to(Vec whole, Vec y) { return Vec(IntVec(y) + (__builtin_convertvector(whole, IntVec) << 23)); }
#endif

inline Vec exp2(Vec x, bool coarse) {  // relative error 2e-7, coarse 5e-5
  x = larger(x, all(-126.f));
  const Vec whole = nearest(x), f = x - whole;
  Vec y = coarse ? all(9.618437e-3f) : (1.5353362e-4f * f + 1.3398874e-3f) * f + 9.6184374e-3f;
  y = (y * f + 5.5503325e-2f) * f + 2.4022648e-1f;
  y = (y * f + 6.9314720e-1f) * f + 1.f;
  return times_two_to(whole, y);
}

inline Vec gelu(Vec x) {  // x Phi(x); erf by Abramowitz and Stegun 7.1.26, error 1.5e-7
  const Vec z = (x < 0.f ? -x : x) * 0.70710678f;
  const Vec t = 1.f / (1.f + 0.3275911f * z);
  Vec tail = ((((1.061405429f * t - 1.453152027f) * t + 1.421413741f) * t - 0.284496736f) * t + 0.254829592f) * t;
  tail = 0.5f * tail * exp2(z * z * -1.44269504f, false);
  return x * (x < 0.f ? tail : 1.f - tail);
}

#if defined(__AVX512F__)
inline float sum_of(Vec v) { return _mm512_reduce_add_ps(__m512(v)); }
inline float max_of(Vec v) { return _mm512_reduce_max_ps(__m512(v)); }
#else
template <class F>
inline float folded(Vec v, F join) {
  float x[kLanes];
  store(x, v);
  for (int half = kLanes / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) x[i] = join(x[i], x[i + half]);
  return x[0];
}
inline float sum_of(Vec v) {
  return folded(v, [](float a, float b) { return a + b; });
}
inline float max_of(Vec v) {
  return folded(v, [](float a, float b) { return a > b ? a : b; });
}
#endif

// ---- the register tile: acc (R, kCols) += a (R, k) times one panel (k, kCols) ----

template <int R>
inline void multiply(const float* a, int64_t lda, const float* panel, int k, Vec (&acc)[R][kVectors]) {
  for (int p = 0; p < k; ++p, panel += kCols) {
    Vec b[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) b[v] = load(panel + v * kLanes);
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
      const Vec x = all(a[r * lda + p]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) acc[r][v] += x * b[v];
    }
  }
}

#if defined(__AVX512BF16__)
inline Vec dot(Vec sum, __m512i pairs, __m512i b) {
  return Vec(_mm512_dpbf16_ps(__m512(sum), (__m512bh)pairs, (__m512bh)b));
}
#endif
#if defined(__AVX512VNNI__)
inline IntVec dot(IntVec sum, __m512i fours, __m512i b) { return IntVec(_mm512_dpbusd_epi32(__m512i(sum), fours, b)); }
#endif

#if defined(__AVX512F__)
// The same for narrow numbers: as many rows of the panel as fill four bytes lie together and go into one product.
template <int R, class A, class B, class Sum>
inline void multiply(const A* a, int64_t lda, const B* panel, int k, Sum (&acc)[R][kVectors]) {
  constexpr int together = 4 / sizeof(A);
  for (int p = 0; p < k; p += together, panel += together * kCols) {
    __m512i b[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) b[v] = _mm512_loadu_si512(panel + together * v * kLanes);
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
      int32_t bytes;
      std::memcpy(&bytes, a + r * lda + p, 4);
      const __m512i x = _mm512_set1_epi32(bytes);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) acc[r][v] = dot(acc[r][v], x, b[v]);
    }
  }
}
#endif

template <class F>
inline void with_rows(int rows, F&& f) {  // f(integral_constant<int, rows>), rows from 1 to kRows
  switch (rows) {
    case 1: return f(std::integral_constant<int, 1>{});
    case 2: return f(std::integral_constant<int, 2>{});
    case 3: return f(std::integral_constant<int, 3>{});
    case 4: return f(std::integral_constant<int, 4>{});
    case 5: return f(std::integral_constant<int, 5>{});
    default: return f(std::integral_constant<int, kRows>{});
  }
}

// ---- stages; each shares its work among the threads of the team and ends in a barrier ----

// tile(integral_constant<int, count>, row, column) for every register tile of (rows, n).
template <class Tile>
void for_tiles(int rows, int n, Tile tile) {
  const int row_tiles = (rows + kTile - 1) / kTile;
#pragma omp for schedule(dynamic)
  for (int task = 0; task < n / kCols * row_tiles; ++task) {
    const int column = task / row_tiles * kCols, first = task % row_tiles * kTile;
    const int last = std::min(rows, first + kTile);
    for (int row = first; row < last; row += kRows)
      with_rows(std::min(kRows, last - row), [&](auto count) { tile(count, row, column); });
  }
}

// write(row, column, Vec) gets every vector of a (rows, k) times weight (k, n) plus bias (or null).
template <class T, class Write>
void linear(const T* a, int rows, int k, const T* weight, const float* bias, int n, Write write) {
  for_tiles(rows, n, [&](auto count, int row, int column) {
    Vec acc[count][kVectors] = {};
    multiply<count>(a + int64_t(row) * k, k, weight + int64_t(column) * k, k, acc);
    for (int r = 0; r < count; ++r)
      for (int v = 0; v < kVectors; ++v)
        write(row + r, column + v * kLanes, bias ? acc[r][v] + load(bias + column + v * kLanes) : acc[r][v]);
  });
}

struct Range {  // of a row of bytes
  float unit, least;
};

#if defined(__AVX512VNNI__)
inline Vec load(const bf16* p) {
  const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return Vec(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

template <class T>
void to_bytes(const T* x, int rows, int k, uint8_t* bytes, Range* ranges) {
#pragma omp for schedule(static)
  for (int row = 0; row < rows; ++row) {
    const T* in = x + int64_t(row) * k;
    Vec low = load(in), high = low;
    for (int c = 0; c < k; c += kLanes) low = smaller(low, load(in + c)), high = larger(high, load(in + c));
    const float least = -max_of(-low), unit = std::max((max_of(high) - least) / 255, 1e-30f);
    for (int c = 0; c < k; c += kLanes) {
      const __m512i whole = _mm512_cvtps_epi32(__m512((load(in + c) - least) * (1.f / unit)));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(bytes + int64_t(row) * k + c), _mm512_cvtusepi32_epi8(whole));
    }
    ranges[row] = {unit, least};
  }
}

// A weight (k, n) in int8: n units, n sums of its columns, then the panels.
template <class Write>
void linear(const uint8_t* a, const Range* ranges, int rows, int k, const void* weight, const float* bias, int n,
            Write write) {
  const float *units = static_cast<const float*>(weight), *sums = units + n;
  const int8_t* panels = reinterpret_cast<const int8_t*>(sums + n);
  for_tiles(rows, n, [&](auto count, int row, int column) {
    IntVec acc[count][kVectors] = {};
    multiply<count>(a + int64_t(row) * k, k, panels + int64_t(column) * k, k, acc);
    for (int v = 0; v < kVectors; ++v) {
      const int first = column + v * kLanes;
      const Vec unit = load(units + first), sum = load(sums + first), start = bias ? load(bias + first) : Vec{};
      for (int r = 0; r < count; ++r) {
        const Range range = ranges[row + r];
        write(row + r, first, __builtin_convertvector(acc[r][v], Vec) * (range.unit * unit) + (range.least * sum + start));
      }
    }
  });
}
#endif

template <class T>
void layer_norm(const float* x, int rows, int width, const float* weight, const float* bias, float eps, T* out) {
#pragma omp for schedule(static)
  for (int row = 0; row < rows; ++row) {
    const float* in = x + int64_t(row) * width;
    Vec sum{}, square{};
    for (int c = 0; c < width; c += kLanes) sum += load(in + c);
    const float mean = sum_of(sum) / width;
    for (int c = 0; c < width; c += kLanes) {
      const Vec d = load(in + c) - mean;
      square += d * d;
    }
    const float scale = 1.f / std::sqrt(sum_of(square) / width + eps);
    for (int c = 0; c < width; c += kLanes)
      put(out + int64_t(row) * width + c, (load(in + c) - mean) * scale * load(weight + c) + load(bias + c));
  }
}

// Where key and value of token s, channel c lie in the memory of one stream and head that has room for `room` tokens.
template <class T>
inline int64_t key_at(int64_t s, int c) {
  constexpr int k = group<T>;
  return s / kCols * kCols * kHead + (c / k * kCols + s % kCols) * k + c % k;
}
template <class T>
inline int64_t value_at(int64_t s, int c, int64_t room) {
  constexpr int k = group<T>;
  return c / kCols * kCols * room + (s / k * kCols + c % kCols) * k + s % k;
}

// Scales of int8 keys and values of one stream and head grow when a frame exceeds them; what is held is rounded anew.
template <class T, class At>
void grow_scales(const float* largest, float* scale, int8_t* held, int64_t tokens, At at) {
  for (int c = 0; c < kHead; ++c) {
    if (largest[c] <= 127 * scale[c]) continue;
    const float grown = largest[c] * 1.25f / 127;
    for (int64_t s = 0; s < tokens; ++s) put(held + at(s, c), held[at(s, c)] * scale[c] / grown);
    scale[c] = grown;
  }
}

// into += weight * (from - into), token by token of a frame.
template <class K, class From, class Into>
void fold(K* held, int tokens, float weight, From from, Into into) {
  for (int p = 0; p < tokens; ++p)
    for (int c = 0; c < kHead; ++c) {
      const float old = to_float(held[into(p, c)]);
      put(held + into(p, c), old + weight * (to_float(held[from(p, c)]) - old));
    }
}

}  // namespace

extern "C" {

struct Block {  // weights packed in T, or in int8 where a Call has room for bytes; LayerScale is part of proj and fc2
  const void *qkv, *proj, *fc1, *fc2;
  const float *qkv_bias, *proj_bias, *fc1_bias, *fc2_bias, *norm1, *norm1_bias, *norm2, *norm2_bias;
};

struct Layer {  // (streams, H, D * room) keys and values in K; (streams, H, 2, D) scales where K is int8
  void *keys, *values;
  float* scales;
};

struct Call {
  int32_t threads, streams, tokens, width, heads, hidden, rope_streams;  // rope_streams: 1 if one table serves all
  int64_t room;                                                 // tokens of a stream that the memory has room for
  float eps;
  const Block* blocks;
  const Layer* layers;
  const int32_t *rows, *first_token, *visible_tokens;  // of each stream: its row of the memory, where, what it may see
  const int32_t *fold_from, *fold_into;                // first tokens of slots to fold before; -1: nothing to fold
  const float* fold_weight;
  const float *cos, *sin;                              // (rope_streams, P, D)
  float *x, *qkv;                                      // (R, C) residual stream, (R, 3 C)
  void *normed, *q, *attended, *hidden_values;         // (R, C), (B, H, P, D), (R, C), (R, hidden) in T
  uint8_t* bytes;                                      // (R, hidden) rounded rows, where weights are int8; else null
  float* ranges;                                       // (R, 2) their units and least values
  double* stage_s;                                     // seconds of norms, qkv, rope + write, attention, proj, mlp; or null
};
}

namespace {

template <class K>
constexpr bool scaled = std::is_same_v<K, int8_t>;

template <class T, class K>
void rotate_and_remember(const Call& step, int layer) {
  const int tokens = step.tokens, width = step.width;
  const Layer& memory = step.layers[layer];
#pragma omp for schedule(dynamic) collapse(2)
  for (int b = 0; b < step.streams; ++b)
    for (int h = 0; h < step.heads; ++h) {
      const int64_t head = int64_t(step.rows[b]) * step.heads + h;
      K* keys = static_cast<K*>(memory.keys) + head * kHead * step.room;
      K* values = static_cast<K*>(memory.values) + head * kHead * step.room;
      float* scales = scaled<K> ? memory.scales + head * 2 * kHead : nullptr;
      T* q = static_cast<T*>(step.q) + (int64_t(b) * step.heads + h) * tokens * kHead;
      const int64_t table = step.rope_streams == 1 ? 0 : int64_t(b) * tokens;
      float largest[2][kHead] = {};
      for (int p = 0; p < tokens; ++p) {  // turn the pairs (c, c + D / 2) in place
        float* qkv = step.qkv + (int64_t(b) * tokens + p) * 3 * width + h * kHead;
        const float *cos = step.cos + (table + p) * kHead, *sin = step.sin + (table + p) * kHead;
        for (float* x : {qkv, qkv + width})
          for (int c = 0; c < kHead / 2; ++c) {
            const float first = x[c], second = x[c + kHead / 2];
            x[c] = first * cos[c] - second * sin[c];
            x[c + kHead / 2] = second * cos[c + kHead / 2] + first * sin[c + kHead / 2];
          }
        if constexpr (scaled<K>)
          for (int c = 0; c < kHead; ++c)
            for (int which : {0, 1})
              largest[which][c] = std::max(largest[which][c], std::fabs(qkv[(1 + which) * width + c]));
      }
      if (step.fold_from[b] >= 0) {
        const int64_t from = step.fold_from[b], into = step.fold_into[b];
        fold(keys, tokens, step.fold_weight[b], [&](int p, int c) { return key_at<T>(from + p, c); },
             [&](int p, int c) { return key_at<T>(into + p, c); });
        fold(values, tokens, step.fold_weight[b], [&](int p, int c) { return value_at<T>(from + p, c, step.room); },
             [&](int p, int c) { return value_at<T>(into + p, c, step.room); });
      }
      float key_unit[kHead], value_unit[kHead];
      std::fill_n(key_unit, kHead, 1.f);
      std::fill_n(value_unit, kHead, 1.f);
      if constexpr (scaled<K>) {
        const int64_t held = std::max(step.visible_tokens[b], step.first_token[b] + tokens);
        grow_scales<T>(largest[0], scales, keys, held, [](int64_t s, int c) { return key_at<T>(s, c); });
        grow_scales<T>(largest[1], scales + kHead, values, held,
                       [&](int64_t s, int c) { return value_at<T>(s, c, step.room); });
        for (int c = 0; c < kHead; ++c)
          key_unit[c] = 1 / std::max(scales[c], 1e-30f), value_unit[c] = 1 / std::max(scales[kHead + c], 1e-30f);
      }
      for (int p = 0; p < tokens; ++p) {
        const float* qkv = step.qkv + (int64_t(b) * tokens + p) * 3 * width + h * kHead;
        const int64_t s = step.first_token[b] + p;
        for (int c = 0; c < kHead; ++c) {
          const float unit = scaled<K> ? scales[c] : 1.f;
          put(q + int64_t(p) * kHead + c, qkv[c] * unit * 0.18033688f);  // log2(e) / sqrt(D)
        }
        for (int c = 0; c < kHead; ++c) put(keys + key_at<T>(s, c), qkv[width + c] * key_unit[c]);
        for (int c = 0; c < kHead; ++c) put(values + value_at<T>(s, c, step.room), qkv[2 * width + c] * value_unit[c]);
      }
    }
}

// kChunk keys (and as many values) as T: where they lie, or widened into `space`.
template <class T, class K>
inline const T* as_multiplied(const K* held, int64_t count, T* space) {
  if constexpr (std::is_same_v<T, K>) {
    return held;
  } else {
    for (int64_t i = 0; i < count; ++i) put(space + i, to_float(held[i]));
    return space;
  }
}

template <class T>
struct Scratch {
  T keys[kChunk * kHead], values[kChunk * kHead];
  float scores[kRows][kChunk];
  T weights[kRows][kChunk];
  float out[kTile][kHead], largest[kTile], sum[kTile];
};

// Softmax in base 2 of `rows` rows of scores, against the largest score so far; rescales what was summed before.
template <class T>
inline void weigh(Scratch<T>& s, int row, int rows, int keys, int padded) {
  for (int r = 0; r < rows; ++r) {
    float* score = s.scores[r];
    std::fill(score + keys, score + padded, -1e30f);
    Vec best = load(score);
    for (int i = kLanes; i < padded; i += kLanes) best = larger(best, load(score + i));
    const float largest = std::max(s.largest[row + r], max_of(best));
    const float fade = exp2(all(s.largest[row + r] - largest), false)[0];
    Vec sum{};
    for (int i = 0; i < padded; i += kLanes) {
      const Vec weight = exp2(load(score + i) - largest, std::is_same_v<T, bf16>);
      sum += weight;
      put(s.weights[r] + i, weight);
    }
    s.largest[row + r] = largest;
    s.sum[row + r] = s.sum[row + r] * fade + sum_of(sum);
    for (int c = 0; c < kHead; c += kLanes) store(s.out[row + r] + c, load(s.out[row + r] + c) * fade);
  }
}

template <class T, class K>
void attend_rows(const T* q, int rows, const K* keys, const K* values, int64_t tokens, int64_t room, Scratch<T>& s) {
  std::fill_n(s.largest, rows, -1e30f);
  std::fill_n(s.sum, rows, 0.f);
  std::memset(s.out, 0, sizeof s.out);
  for (int64_t start = 0; start < tokens; start += kChunk) {
    const int count = int(std::min<int64_t>(kChunk, tokens - start)), padded = (count + kCols - 1) / kCols * kCols;
    const T* key_panels = as_multiplied(keys + start * kHead, int64_t(padded) * kHead, s.keys);
    const T* value_panels[kHead / kCols];
    for (int c = 0; c < kHead / kCols; ++c)
      value_panels[c] = as_multiplied(values + c * kCols * room + start * kCols, int64_t(padded) * kCols,
                                      s.values + c * kChunk * kCols);
    for (int row = 0; row < rows; row += kRows)
      with_rows(std::min(kRows, rows - row), [&](auto n) {
        for (int panel = 0; panel < padded; panel += kCols) {
          Vec acc[n][kVectors] = {};
          multiply<n>(q + int64_t(row) * kHead, kHead, key_panels + int64_t(panel) * kHead, kHead, acc);
          for (int r = 0; r < n; ++r)
            for (int v = 0; v < kVectors; ++v) store(s.scores[r] + panel + v * kLanes, acc[r][v]);
        }
        weigh(s, row, n, count, padded);
        for (int c = 0; c < kHead / kCols; ++c) {
          Vec acc[n][kVectors];
          for (int r = 0; r < n; ++r)
            for (int v = 0; v < kVectors; ++v) acc[r][v] = load(s.out[row + r] + c * kCols + v * kLanes);
          multiply<n>(s.weights[0], kChunk, value_panels[c], padded, acc);
          for (int r = 0; r < n; ++r)
            for (int v = 0; v < kVectors; ++v) store(s.out[row + r] + c * kCols + v * kLanes, acc[r][v]);
        }
      });
  }
}

template <class T, class K>
void attend(const Call& step, int layer) {
  const int tiles = (step.tokens + kTile - 1) / kTile;
  const int tile = ((step.tokens + tiles - 1) / tiles + kRows - 1) / kRows * kRows;
  const Layer& memory = step.layers[layer];
  static thread_local Scratch<T> scratch;
#pragma omp for schedule(dynamic)
  for (int task = 0; task < step.streams * step.heads * tiles; ++task) {
    const int b = task / (step.heads * tiles), h = task / tiles % step.heads, first = task % tiles * tile;
    const int rows = std::min(tile, step.tokens - first);
    const int64_t head = int64_t(step.rows[b]) * step.heads + h;
    const T* q = static_cast<const T*>(step.q) + ((int64_t(b) * step.heads + h) * step.tokens + first) * kHead;
    attend_rows<T, K>(q, rows, static_cast<const K*>(memory.keys) + head * kHead * step.room,
                      static_cast<const K*>(memory.values) + head * kHead * step.room, step.visible_tokens[b],
                      step.room, scratch);
    T* out = static_cast<T*>(step.attended) + (int64_t(b) * step.tokens + first) * step.width + h * kHead;
    for (int r = 0; r < rows; ++r)
      for (int c = 0; c < kHead; c += kLanes) {
        Vec value = load(scratch.out[r] + c) * (1.f / scratch.sum[r]);
        if constexpr (scaled<K>) value *= load(memory.scales + (head * 2 + 1) * kHead + c);
        put(out + int64_t(r) * step.width + c, value);
      }
  }
}

// Adds the time since its last call to a stage; every stage ends in a barrier, so one thread's clock is all threads'.
class Clock {
 public:
  explicit Clock(double* stage_s) : stage_s_(stage_s), last_(stage_s ? omp_get_wtime() : 0) {}
  void stage(int number) {
    if (stage_s_ == nullptr || omp_get_thread_num() != 0) return;
    const double now = omp_get_wtime();
    stage_s_[number] += now - last_;
    last_ = now;
  }

 private:
  double* stage_s_;
  double last_;
};

template <class T, class K>
void run(const Call& step, int first, int last) {
  const int rows = step.streams * step.tokens, width = step.width, hidden = step.hidden;
  T *normed = static_cast<T*>(step.normed), *attended = static_cast<T*>(step.attended);
  T* middle = static_cast<T*>(step.hidden_values);
  const auto add = [&](int row, int column, Vec value) {
    float* x = step.x + int64_t(row) * width + column;
    store(x, load(x) + value);
  };
  const auto product = [&](const T* a, int k, const void* weight, const float* bias, int n, auto write) {
#if defined(__AVX512VNNI__)
    if (step.bytes != nullptr) {
      Range* ranges = reinterpret_cast<Range*>(step.ranges);
      to_bytes(a, rows, k, step.bytes, ranges);
      return linear(step.bytes, ranges, rows, k, weight, bias, n, write);
    }
#endif
    linear(a, rows, k, static_cast<const T*>(weight), bias, n, write);
  };
#pragma omp parallel num_threads(step.threads)
  {
    Clock clock(step.stage_s);
    for (int number = first; number < last; ++number) {
      const Block& block = step.blocks[number];
      layer_norm(step.x, rows, width, block.norm1, block.norm1_bias, step.eps, normed);
      clock.stage(0);
      product(normed, width, block.qkv, block.qkv_bias, 3 * width,
              [&](int row, int column, Vec value) { store(step.qkv + int64_t(row) * 3 * width + column, value); });
      clock.stage(1);
      rotate_and_remember<T, K>(step, number);
      clock.stage(2);
      attend<T, K>(step, number);
      clock.stage(3);
      product(attended, width, block.proj, block.proj_bias, width, add);
      clock.stage(4);
      layer_norm(step.x, rows, width, block.norm2, block.norm2_bias, step.eps, normed);
      clock.stage(0);
      product(normed, width, block.fc1, block.fc1_bias, hidden,
              [&](int row, int column, Vec value) { put(middle + int64_t(row) * hidden + column, gelu(value)); });
      product(middle, hidden, block.fc2, block.fc2_bias, width, add);
      clock.stage(5);
    }
  }
}

template <class T>
void multiply_alone(const T* a, int rows, int k, const T* packed, int n, float* out, int threads) {
#pragma omp parallel num_threads(threads)
  linear(a, rows, k, packed, nullptr, n,
         [&](int row, int column, Vec value) { store(out + int64_t(row) * n + column, value); });
}

template <class T>
void pack(const float* weight_nk, int n, int k, T* out) {
  for (int64_t row = 0; row < n; ++row)
    for (int64_t p = 0; p < k; ++p)
      put(out + row / kCols * kCols * k + (p / group<T> * kCols + row % kCols) * group<T> + p % group<T>,
          weight_nk[row * k + p]);
}

void pack_bytes(const float* weight_nk, int n, int k, float* out) {
  float *units = out, *sums = out + n;
  std::vector<float> rounded(weight_nk, weight_nk + int64_t(n) * k);
  for (int row = 0; row < n; ++row) {
    float *w = rounded.data() + int64_t(row) * k, largest = 1e-30f;
    for (int p = 0; p < k; ++p) largest = std::max(largest, std::fabs(w[p]));
    units[row] = largest / 127;
    sums[row] = 0;
    for (int p = 0; p < k; ++p) sums[row] += w[p] = std::round(w[p] / units[row]);
    sums[row] *= units[row];
  }
  pack(rounded.data(), n, k, reinterpret_cast<int8_t*>(sums + n));
}

}  // namespace

extern "C" {

int32_t columns() { return kCols; }

int32_t multiplies_bfloat16() {
#if defined(__AVX512BF16__)
  return 1;
#else
  return 0;
#endif
}

int32_t multiplies_int8() {
#if defined(__AVX512VNNI__)
  return 1;
#else
  return 0;
#endif
}

void pack_float32(const float* weight_nk, int32_t n, int32_t k, void* out) {
  pack(weight_nk, n, k, static_cast<float*>(out));
}
void pack_bfloat16(const float* weight_nk, int32_t n, int32_t k, void* out) {
  pack(weight_nk, n, k, static_cast<bf16*>(out));
}

void pack_int8(const float* weight_nk, int32_t n, int32_t k, void* out) {
  pack_bytes(weight_nk, n, k, static_cast<float*>(out));
}

// out (rows, n) = a (rows, k) times packed (k, n): what the kernels reach at best.
void product_float32(const void* a, int32_t rows, int32_t k, const void* packed, int32_t n, float* out, int32_t threads) {
  multiply_alone(static_cast<const float*>(a), rows, k, static_cast<const float*>(packed), n, out, threads);
}
#if defined(__AVX512BF16__)
void product_bfloat16(const void* a, int32_t rows, int32_t k, const void* packed, int32_t n, float* out, int32_t threads) {
  multiply_alone(static_cast<const bf16*>(a), rows, k, static_cast<const bf16*>(packed), n, out, threads);
}
#endif

void run_float32_float32(const Call* c, int32_t first, int32_t last) { run<float, float>(*c, first, last); }
void run_float32_bfloat16(const Call* c, int32_t first, int32_t last) { run<float, bf16>(*c, first, last); }
void run_float32_int8(const Call* c, int32_t first, int32_t last) { run<float, int8_t>(*c, first, last); }
#if defined(__AVX512BF16__)
void run_bfloat16_bfloat16(const Call* c, int32_t first, int32_t last) { run<bf16, bf16>(*c, first, last); }
void run_bfloat16_int8(const Call* c, int32_t first, int32_t last) { run<bf16, int8_t>(*c, first, last); }
#endif
}
