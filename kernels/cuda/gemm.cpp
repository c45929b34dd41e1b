// Matrix products on cuBLAS and cuBLASLt, which are loaded when the first GPU is opened.
//
// cuBLAS thinks in columns: a row-major (m, n) matrix is its (n, m) matrix, so c = a·b is asked for as cᵀ = bᵀ·aᵀ.
#include <cublasLt.h>
#include <cublas_v2.h>
#include <dlfcn.h>

#include <map>
#include <mutex>
#include <tuple>

#include "kernels/cpu/packed_matrix.h"
#include "kernels/cuda/cuda_device.h"
#include "kernels/cuda/fp8.h"
#include "kernels/cuda/low_rank.h"
#include "kernels/cuda/operations.h"
#include "kernels/cuda/quantized_gemm.h"
#include "kernels/cuda/ridge.h"
#include "kernels/cuda/runtime.h"

namespace trib::kernels::cuda {
namespace {

// The functions that are used, by their own types.
#define TRIB_BLAS_FUNCTIONS(F) \
  F(cublasCreate_v2)           \
  F(cublasSetStream_v2)        \
  F(cublasSetWorkspace_v2)     \
  F(cublasDsyrk_v2)            \
  F(cublasGetStatusString)
#define TRIB_BLASLT_FUNCTIONS(F)     \
  F(cublasLtCreate)                  \
  F(cublasLtMatmul)                  \
  F(cublasLtMatmulAlgoGetHeuristic)  \
  F(cublasLtMatmulDescCreate)        \
  F(cublasLtMatmulDescDestroy)       \
  F(cublasLtMatmulDescSetAttribute)  \
  F(cublasLtMatrixLayoutCreate)      \
  F(cublasLtMatrixLayoutDestroy)     \
  F(cublasLtMatmulPreferenceCreate)  \
  F(cublasLtMatmulPreferenceDestroy) \
  F(cublasLtMatmulPreferenceSetAttribute)

// C++ has an overload of this one.
using GemmEx = cublasStatus_t(cublasHandle_t, cublasOperation_t, cublasOperation_t, int, int, int, const void*,
                              const void*, cudaDataType, int, const void*, cudaDataType, int, const void*, void*,
                              cudaDataType, int, cublasComputeType_t, cublasGemmAlgo_t);

struct Blas {
  GemmEx* cublasGemmEx = nullptr;
#define TRIB_DECLARE(name) decltype(&::name) name = nullptr;
  TRIB_BLAS_FUNCTIONS(TRIB_DECLARE)
  TRIB_BLASLT_FUNCTIONS(TRIB_DECLARE)
#undef TRIB_DECLARE
};

Result<Blas> open_blas() {
  Blas blas;
  auto open = [](const std::string& name) -> Result<void*> {
    const std::string file = "lib" + name + ".so." + std::to_string(CUBLAS_VER_MAJOR);
    for (const std::string& path : {file, "/usr/local/cuda/lib64/" + file})
      if (void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL)) return library;
    return Error{Errc::unsupported, "cannot load " + file + " (" + dlerror() +
                                        "): install CUDA's libraries or name their folder in LD_LIBRARY_PATH"};
  };
  TRIB_ASSIGN(void* const lt, open("cublasLt"));
  TRIB_ASSIGN(void* const base, open("cublas"));
#define TRIB_LOAD(library, name)                                            \
  blas.name = reinterpret_cast<decltype(blas.name)>(dlsym(library, #name)); \
  if (blas.name == nullptr) return Error{Errc::unsupported, "cuBLAS lacks " #name};
#define TRIB_LOAD_BASE(name) TRIB_LOAD(base, name)
#define TRIB_LOAD_LT(name) TRIB_LOAD(lt, name)
  TRIB_BLAS_FUNCTIONS(TRIB_LOAD_BASE)
  TRIB_LOAD_BASE(cublasGemmEx)
  TRIB_BLASLT_FUNCTIONS(TRIB_LOAD_LT)
  return blas;
}

const Result<Blas>& loaded_blas() {
  static const Result<Blas> blas = open_blas();
  return blas;
}
const Blas& blas() {
  return loaded_blas().value();
}

void check_blas(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  if (status == CUBLAS_STATUS_ALLOC_FAILED) throw std::bad_alloc();
  throw FatalError(
      Error{Errc::unavailable, std::string("cuBLAS: ") + what + ": " + blas().cublasGetStatusString(status)});
}

cudaDataType_t type_of(bool is_bf16) {
  return is_bf16 ? CUDA_R_16BF : CUDA_R_32F;
}

// One per device. Memory for split sums belongs to the device's one stream, where recordings run too.
struct Handles {
  std::mutex mutex;
  std::map<cudaStream_t, cublasHandle_t> base;  // setting the stream of a handle would drop its workspace
  cublasLtHandle_t lt = nullptr;
  Tensor workspace;
  // Algorithms by what was asked for: (rows, outputs, inputs, types and epilogue).
  std::map<std::tuple<std::int64_t, std::int64_t, std::int64_t, int>, cublasLtMatmulAlgo_t> algorithms;
};

constexpr std::int64_t workspace_bytes = std::int64_t{64} << 20;

Handles& handles(Stream& stream) {
  static std::mutex mutex;
  static auto& all = *new std::map<Device*, std::unique_ptr<Handles>>();
  static_cast<void>(handle(stream));  // selects the device
  const std::lock_guard lock(mutex);
  std::unique_ptr<Handles>& found = all[&stream.device()];
  if (!found) {
    auto made = std::make_unique<Handles>();
    check_blas(blas().cublasLtCreate(&made->lt), "a handle");
    made->workspace = Tensor(stream.device(), DType::u8, {workspace_bytes});
    for (const cudaStream_t raw : {main_stream(stream), capture_stream(stream)}) {
      cublasHandle_t& base = made->base[raw];
      check_blas(blas().cublasCreate_v2(&base), "a handle");
      check_blas(blas().cublasSetStream_v2(base, raw), "the stream");
      check_blas(blas().cublasSetWorkspace_v2(base, RawAccess::address(made->workspace),
                                              static_cast<std::size_t>(workspace_bytes)),
                 "the workspace");
    }
    found = std::move(made);
  }
  return *found;
}

// Weights as they are stored: (k, n), or (n, k) if `transposed`.
struct DeviceMatrix final : PackedMatrix::Impl {
  Tensor weights;
  bool transposed = false;
  Tensor scales;      // (n) float32 in FP8, whose codes are `weights` (n, k)
  bool tf32 = false;  // float32 factors on the tensor cores
};

// RAII around cuBLASLt's descriptors.
struct Descriptor {
  cublasLtMatmulDesc_t value = nullptr;
  explicit Descriptor(cublasComputeType_t compute) {
    check_blas(blas().cublasLtMatmulDescCreate(&value, compute, CUDA_R_32F), "a product");
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() { blas().cublasLtMatmulDescDestroy(value); }
  template <typename T>
  void set(cublasLtMatmulDescAttributes_t attribute, const T& to) {
    check_blas(blas().cublasLtMatmulDescSetAttribute(value, attribute, &to, sizeof to), "a product's attribute");
  }
};
struct Layout {
  cublasLtMatrixLayout_t value = nullptr;
  Layout(cudaDataType_t type, std::int64_t rows, std::int64_t columns, std::int64_t stride) {
    check_blas(blas().cublasLtMatrixLayoutCreate(&value, type, static_cast<std::uint64_t>(rows),
                                                 static_cast<std::uint64_t>(columns), stride),
               "a layout");
  }
  Layout(const Layout&) = delete;
  Layout& operator=(const Layout&) = delete;
  ~Layout() { blas().cublasLtMatrixLayoutDestroy(value); }
};
struct Preference {
  cublasLtMatmulPreference_t value = nullptr;
  Preference() { check_blas(blas().cublasLtMatmulPreferenceCreate(&value), "a preference"); }
  Preference(const Preference&) = delete;
  Preference& operator=(const Preference&) = delete;
  ~Preference() { blas().cublasLtMatmulPreferenceDestroy(value); }
};

// y (t, n) = epilogue(x·w), or += . What the epilogue reads and writes is in its own arguments.
struct Epilogue {
  cublasLtEpilogue_t kind = CUBLASLT_EPILOGUE_DEFAULT;
  const void* bias = nullptr;
  void* kept = nullptr;               // (t, n) bf16
  const float* row_scales = nullptr;  // (t), of x in FP8
};

#if CUBLAS_VERSION >= 120900
constexpr bool has_fp8_scales = true;
#else
constexpr bool has_fp8_scales = false;  // of rows; one for a whole matrix would not do
#endif

// Both factors in e4m3: element (i, j) of the product is multiplied by the i-th scale of one and the j-th of the other.
void set_fp8_scales([[maybe_unused]] Descriptor& product, [[maybe_unused]] const float* output_scales,
                    [[maybe_unused]] const float* row_scales) {
#if CUBLAS_VERSION >= 120900
  product.set(CUBLASLT_MATMUL_DESC_A_SCALE_MODE, std::int32_t{CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F});
  product.set(CUBLASLT_MATMUL_DESC_B_SCALE_MODE, std::int32_t{CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F});
  product.set(CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, output_scales);
  product.set(CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, row_scales);
  // Sums stay in the tensor cores. Moving them to float32 registers now and then costs 6 % of a step and changes no
  // figure of docs/performance.md beyond its noise: e4m3's own rounding is far coarser.
  product.set(CUBLASLT_MATMUL_DESC_FAST_ACCUM, std::int8_t{1});
#endif
}

void lt_product(Stream& stream, const Tensor& x, const PackedMatrix::Impl& w, const Epilogue& epilogue, bool accumulate,
                const Tensor& y) {
  const auto& matrix = static_cast<const DeviceMatrix&>(w);
  const std::int64_t t = x.dim(0), k = w.input_size, n = w.output_size;
  if (t == 0) return;
  const cudaStream_t raw = handle(stream);
  Handles& h = handles(stream);
  const bool narrow = w.compute == DType::bf16, y_narrow = y.dtype() == DType::bf16;
  const bool fp8 = w.format == WeightFormat::fp8;
  const cudaDataType_t factors = fp8 ? CUDA_R_8F_E4M3 : type_of(narrow), result = type_of(y_narrow);

  Descriptor product(matrix.tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F);
  if (fp8) set_fp8_scales(product, RawAccess::data<float>(matrix.scales), epilogue.row_scales);
  const cublasOperation_t weights_op = matrix.transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
  product.set(CUBLASLT_MATMUL_DESC_TRANSA, weights_op);
  if (epilogue.kind != CUBLASLT_EPILOGUE_DEFAULT) product.set(CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue.kind);
  if (epilogue.bias != nullptr) {
    product.set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, epilogue.bias);
    product.set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, static_cast<std::int32_t>(type_of(y_narrow)));
  }
  if (epilogue.kept != nullptr) {
    product.set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, epilogue.kept);
    product.set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, n);
  }
  const Layout weights(factors, matrix.transposed ? k : n, matrix.transposed ? n : k, matrix.transposed ? k : n);
  const Layout input(factors, k, t, k), output(result, n, t, n);

  const std::lock_guard lock(h.mutex);
  const int kind = (static_cast<int>(epilogue.kind) << 7) | (fp8 ? 64 : 0) | (matrix.tf32 ? 32 : 0) |
                   (accumulate ? 16 : 0) | (epilogue.bias ? 8 : 0) | (matrix.transposed ? 4 : 0) | (y_narrow ? 2 : 0) |
                   (narrow ? 1 : 0);
  const auto key = std::tuple(t, n, k, kind);
  auto found = h.algorithms.find(key);
  if (found == h.algorithms.end()) {
    Preference preference;
    const auto most = static_cast<std::uint64_t>(workspace_bytes);
    check_blas(blas().cublasLtMatmulPreferenceSetAttribute(preference.value, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                           &most, sizeof most),
               "a preference");
    // Tensors inside a workspace start at multiples of 64 bytes; views by rows may start anywhere.
    std::uint32_t alignment = 256;
    const auto limit = [&](const void* pointer) {
      while (reinterpret_cast<std::uintptr_t>(pointer) % alignment != 0) alignment /= 2;
    };
    limit(RawAccess::address(x));
    limit(RawAccess::address(y));
    limit(RawAccess::address(matrix.weights));
    for (auto attribute : {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                           CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
      check_blas(blas().cublasLtMatmulPreferenceSetAttribute(preference.value, attribute, &alignment, sizeof alignment),
                 "a preference");
    cublasLtMatmulHeuristicResult_t best{};
    int results = 0;
    check_blas(blas().cublasLtMatmulAlgoGetHeuristic(h.lt, product.value, weights.value, input.value, output.value,
                                                     output.value, preference.value, 1, &best, &results),
               "the choice of an algorithm");
    if (results == 0) check_blas(CUBLAS_STATUS_NOT_SUPPORTED, "a product");
    constexpr std::size_t most_algorithms = 20000;  // a few megabytes
    if (h.algorithms.size() >= most_algorithms) h.algorithms.clear();
    found = h.algorithms.emplace(key, best.algo).first;
  }
  const float one = 1.0f, beta = accumulate ? 1.0f : 0.0f;
  check_blas(blas().cublasLtMatmul(h.lt, product.value, &one, RawAccess::address(matrix.weights), weights.value,
                                   RawAccess::address(x), input.value, &beta, RawAccess::address(y), output.value,
                                   RawAccess::address(y), output.value, &found->second, RawAccess::address(h.workspace),
                                   static_cast<std::size_t>(workspace_bytes), raw),
             "a product");
}

// Whether a product has the gelu's passes in its epilogue.
bool fuses_gelu(const PackedMatrix& w) {
  return w.compute() == DType::bf16 && w.format() == WeightFormat::dense && w.output_size() % 8 == 0 &&
         w.input_size() % 8 == 0;
}

// A bias in the type that the epilogue adds.
const void* bias_pointer(const Tensor& bias) {
  return bias.defined() ? static_cast<const void*>(RawAccess::address(bias)) : nullptr;
}

// cᵀ (n, m) = alpha·bᵀ·op(a)ᵀ.
void small_product(Stream& stream, float alpha, const MatrixView& a, bool a_transposed, const MatrixView& b,
                   bool accumulate, const MatrixView& c) {
  const std::int64_t m = c.rows(), n = c.columns, k = b.rows();
  if (m == 0 || n == 0) return;
  detail::require(a.tensor.dtype() == b.tensor.dtype(), "matmul: the factors must have one type");
  const Matrix am = matrix(a), bm = matrix(b), cm = matrix(c);
  Handles& h = handles(stream);
  const std::lock_guard lock(h.mutex);
  const float beta = accumulate ? 1.0f : 0.0f;
  check_blas(blas().cublasGemmEx(h.base.at(handle(stream)), CUBLAS_OP_N, a_transposed ? CUBLAS_OP_T : CUBLAS_OP_N,
                                 static_cast<int>(n), static_cast<int>(m), static_cast<int>(k), &alpha, bm.values.data,
                                 type_of(bm.values.is_bf16), static_cast<int>(bm.stride), am.values.data,
                                 type_of(am.values.is_bf16), static_cast<int>(am.stride), &beta, cm.values.data,
                                 type_of(cm.values.is_bf16), static_cast<int>(cm.stride), CUBLAS_COMPUTE_32F,
                                 CUBLAS_GEMM_DEFAULT),
             "a product");
}

}  // namespace

Status load_blas() {
  if (!loaded_blas()) return loaded_blas().error();
  return {};
}

std::shared_ptr<const PackedMatrix::Impl> pack_matrix(Stream& stream, const Tensor& weights, bool transposed,
                                                      DType compute, Float32Products products) {
  auto packed = std::make_shared<DeviceMatrix>();
  packed->input_size = weights.dim(transposed ? 1 : 0);
  packed->output_size = weights.dim(transposed ? 0 : 1);
  packed->compute = compute;
  packed->transposed = transposed;
  packed->tf32 = compute == DType::f32 && products == Float32Products::tf32;
  packed->weights = weights;
  if (compute == DType::bf16) {
    packed->weights = Tensor(stream.device(), DType::bf16, weights.shape());
    convert(stream, weights, packed->weights);
  }
  return packed;
}

std::shared_ptr<const PackedMatrix::Impl> reversed(const PackedMatrix::Impl& matrix) {
  auto other = std::make_shared<DeviceMatrix>(static_cast<const DeviceMatrix&>(matrix));
  std::swap(other->input_size, other->output_size);
  other->transposed = !other->transposed;
  return other;
}

void packed_product(Stream& stream, const Tensor& x, const PackedMatrix& w, const Tensor& bias, bool accumulate,
                    const Tensor& y) {
  Epilogue epilogue;
  if (w.format() == WeightFormat::int8 || w.format() == WeightFormat::int4)
    return quantized_product(stream, x, w.impl(), bias, accumulate, y);
  if (bias.defined() && !accumulate) epilogue = {CUBLASLT_EPILOGUE_BIAS, bias_pointer(bias)};
  lt_product(stream, x, w.impl(), epilogue, accumulate, y);
}

std::shared_ptr<const PackedMatrix::Impl> pack_fp8(const Fp8Rows& rows) {
  auto packed = std::make_shared<DeviceMatrix>();
  packed->input_size = rows.codes.dim(1);
  packed->output_size = rows.codes.dim(0);
  packed->compute = DType::bf16;
  packed->format = WeightFormat::fp8;
  packed->transposed = true;
  packed->weights = rows.codes;
  packed->scales = rows.scales;
  return packed;
}

Status supports_fp8(Device& device) {
  if (!has_fp8_scales)
    return Error{Errc::unsupported,
                 "this build's CUDA is older than 12.9, which products in FP8 need: set the precision "
                 "to bf16, or build with a newer one"};
  // Asked of cuBLASLt itself, with a product of zeros: which GPUs it serves changes with its version.
  const auto stream = device.make_stream();
  constexpr std::int64_t size = 64;
  const auto zeros = [&] {
    return Fp8Rows(Tensor::zeros(*stream, DType::u8, {size, size}), Tensor::zeros(*stream, DType::f32, {size}));
  };
  const Fp8Rows x = zeros();
  Epilogue epilogue;
  epilogue.row_scales = RawAccess::data<float>(x.scales);
  try {
    lt_product(*stream, x.codes, *pack_fp8(zeros()), epilogue, false, Tensor(device, DType::bf16, {size, size}));
  } catch (const FatalError&) {
    return Error{Errc::unsupported, device.name() +
                                        " has no matrix products in FP8 with a scale for each row (GPUs of "
                                        "compute capability 9.0 have them): set the precision to bf16"};
  }
  return {};
}

void fp8_product(Stream& stream, const Fp8Rows& x, const PackedMatrix& w, const Tensor& bias, bool accumulate,
                 const Tensor& y) {
  detail::require(w.input_size() % 16 == 0 && w.output_size() % 16 == 0,
                  "FP8 products on a GPU take matrices whose sides are multiples of 16");
  Epilogue epilogue;
  if (bias.defined() && !accumulate) epilogue = {CUBLASLT_EPILOGUE_BIAS, bias_pointer(bias)};
  epilogue.row_scales = RawAccess::data<float>(x.scales);
  lt_product(stream, x.codes, w.impl(), epilogue, accumulate, y);
}

void packed_product_gelu(Stream& stream, const Tensor& x, const PackedMatrix& w, const Tensor& bias, const Tensor& y,
                         const Tensor& kept) {
  if (fuses_gelu(w)) {
    Epilogue epilogue{CUBLASLT_EPILOGUE_GELU_BIAS, bias_pointer(bias)};
    if (kept.defined()) {
      epilogue.kind = CUBLASLT_EPILOGUE_GELU_AUX_BIAS;
      epilogue.kept = RawAccess::address(kept);
    }
    return lt_product(stream, x, w.impl(), epilogue, false, y);
  }
  cuda::packed_product(stream, x, w, bias, false, y);
  cuda::gelu(stream, y, y, kept);
}

void packed_product_gelu_backward(Stream& stream, const Tensor& dy, const PackedMatrix& w, const Tensor& kept,
                                  const Tensor& dx) {
  if (fuses_gelu(w))
    return lt_product(stream, dy, w.impl(), {CUBLASLT_EPILOGUE_DGELU, nullptr, RawAccess::address(kept)}, false, dx);
  cuda::packed_product(stream, dy, w, {}, false, dx);
  cuda::gelu_backward(stream, dx, kept, dx);
}

void matmul(Stream& stream, float alpha, const MatrixView& a, const MatrixView& b, bool accumulate,
            const MatrixView& c) {
  if (accumulate ? add_low_rank(stream, alpha, a, b, c) : reduce_to_low_rank(stream, alpha, a, b, c)) return;
  small_product(stream, alpha, a, false, b, accumulate, c);
}

void matmul_transposed(Stream& stream, float alpha, const MatrixView& a, const MatrixView& b, bool accumulate,
                       const MatrixView& c) {
  small_product(stream, alpha, a, true, b, accumulate, c);
}

void product_f64(Stream& stream, std::int64_t m, std::int64_t n, std::int64_t k, double alpha, const Columns& a,
                 const Columns& b, double beta, double* c, std::int64_t c_stride) {
  Handles& h = handles(stream);
  const std::lock_guard lock(h.mutex);
  check_blas(blas().cublasGemmEx(h.base.at(handle(stream)), a.transposed ? CUBLAS_OP_T : CUBLAS_OP_N,
                                 b.transposed ? CUBLAS_OP_T : CUBLAS_OP_N, static_cast<int>(m), static_cast<int>(n),
                                 static_cast<int>(k), &alpha, a.data, CUDA_R_64F, static_cast<int>(a.stride), b.data,
                                 CUDA_R_64F, static_cast<int>(b.stride), &beta, c, CUDA_R_64F,
                                 static_cast<int>(c_stride), CUBLAS_COMPUTE_64F, CUBLAS_GEMM_DEFAULT),
             "a product");
}

void lower_gram_f64(Stream& stream, std::int64_t m, std::int64_t k, double alpha, const double* a,
                    std::int64_t a_stride, double beta, double* c, std::int64_t c_stride) {
  Handles& h = handles(stream);
  const std::lock_guard lock(h.mutex);
  check_blas(blas().cublasDsyrk_v2(h.base.at(handle(stream)), CUBLAS_FILL_MODE_LOWER, CUBLAS_OP_N, static_cast<int>(m),
                                   static_cast<int>(k), &alpha, a, static_cast<int>(a_stride), &beta, c,
                                   static_cast<int>(c_stride)),
             "a product");
}

}  // namespace trib::kernels::cuda
