// Small dense linear algebra in float64 for the aggregator: what FedSVD does with the averaged factors. Every function
// takes float32 or float64 tensors and computes in float64; nothing here forms an m×n product.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/tensor.h"

namespace trib::kernels {

// One adapter ΔW = B·A to bring into FedSVD's normal form. The tensors are updated in place.
struct Refactorization {
  Tensor b;  // (m, r), r ≤ min(m, n)
  Tensor a;  // (r, n)
  // (r, r) float64, may be left undefined. Receives the rotation R = Wᵀ (signs included) with A_new = R·Q, where Q is
  // the given A if its rows are orthonormal, or A's orthonormal factor (A = L·Q) if not.
  Tensor rotation;
};

// Rows are called orthonormal if |A·Aᵀ − I| ≤ this everywhere: an A that a float32 file rounded still counts.
inline constexpr double orthonormality_tolerance = 1e-5;

// For each adapter: if A's rows are not orthonormal, A = L·Q, B ← B·L, A ← Q. Then the thin SVD B = U·S·Wᵀ, B ← U·S and
// A ← Wᵀ·A. Singular values descend; the largest-magnitude entry of each row of the new A is positive; the product B·A
// is unchanged. A rank-deficient B (zero included) keeps A's rows orthonormal. Householder QR of B and one-sided Jacobi
// on its r×r triangle (Demmel & Veselić 1992). Adapters may differ in shape; equal shapes cost least.
// Throws std::invalid_argument on shapes or types that do not fit, and on elements that are not finite.
void refactorize(Stream& stream, std::span<const Refactorization> adapters);

// LQ factorization A = L·Q with a non-negative diagonal of L: a (r, n), r ≤ n, becomes Q, whose rows are orthonormal
// even where A's are dependent. `lower` (r, r) float64 receives L unless it is undefined.
void orthonormalize_rows(Stream& stream, const Tensor& a, const Tensor& lower = {});

// Fills a (r, n) with orthonormal rows, uniformly distributed (Haar): the Q of a Gaussian matrix drawn from the
// ChaCha20 stream (key, stream_id) at counter 0. With `orthogonal_to` (k, n), k + r ≤ n, they are also orthogonal to
// its rows.
void random_orthonormal_rows(Stream& stream, std::span<const std::uint8_t, 32> key, std::uint64_t stream_id,
                             const Tensor& a, const Tensor& orthogonal_to = {});

// c (m, n) ← a (m, k) · b (k, n), accumulated in float64. For factors such as B_t·Q_t; c must not alias a or b.
void multiply(Stream& stream, const Tensor& a, const Tensor& b, const Tensor& c);

}  // namespace trib::kernels
