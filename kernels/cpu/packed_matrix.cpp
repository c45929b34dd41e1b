#include "kernels/cpu/packed_matrix.h"

#include <algorithm>
#include <iterator>
#include <map>
#include <memory>
#include <mutex>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "kernels/cpu/simd.h"
#include "kernels/detail/dispatch.h"

#ifdef TRIB_HAS_ONEDNN
#include <omp.h>

#include <oneapi/dnnl/dnnl.hpp>
#endif

namespace trib::kernels::cpu {

#ifdef TRIB_HAS_ONEDNN
namespace {

dnnl::engine& engine() {
  static dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

// oneDNN would start OpenMP threads of its own in every thread that calls it. Ours run side by side already, one lane
// each, so each asks OpenMP for one.
void hold_openmp_to_one_thread() {
  thread_local const bool held = [] {
    omp_set_num_threads(1);
    return true;
  }();
  static_cast<void>(held);
}

dnnl::stream& stream() {
  hold_openmp_to_one_thread();
  thread_local dnnl::stream stream(engine());
  return stream;
}

// Memory that oneDNN may use during a product. Its own scratch belongs to the thread that made the primitive, and ours
// are used by every lane.
void* scratchpad(std::size_t bytes) {
  thread_local std::vector<std::byte> memory;
  constexpr std::size_t alignment = 64;
  if (memory.size() < bytes + alignment) memory.resize(bytes + alignment);
  void* pointer = memory.data();
  std::size_t space = memory.size();
  return std::align(alignment, bytes, pointer, space);
}

dnnl::memory::data_type dnnl_type(DType dtype) {
  return dtype == DType::bf16 ? dnnl::memory::data_type::bf16 : dnnl::memory::data_type::f32;
}

enum class Epilogue { none, bias, accumulate };

// oneDNN makes code for every shape (about 0.2 ms each), and batches without padding have every length. So a product
// runs as a sequence of these row counts, the largest first: few shapes, shared by all matrices of one size.
constexpr std::int64_t row_blocks[] = {128, 64, 32, 16, 8, 4, 2, 1};

// The products with matrices of one size and type.
class ProductShape {
 public:
  static std::shared_ptr<ProductShape> of(std::int64_t input_size, std::int64_t output_size, DType compute) {
    static std::mutex mutex;
    static std::map<std::tuple<std::int64_t, std::int64_t, DType>, std::shared_ptr<ProductShape>> shapes;
    std::scoped_lock lock(mutex);
    std::shared_ptr<ProductShape>& shape = shapes[{input_size, output_size, compute}];
    if (!shape) shape = std::make_shared<ProductShape>(input_size, output_size, compute);
    return shape;
  }

  ProductShape(std::int64_t input_size, std::int64_t output_size, DType compute)
      : input_size_(input_size), output_size_(output_size), compute_(compute) {
    using dnnl::memory;
    const memory::desc any({input_size, output_size}, dnnl_type(compute), memory::format_tag::any);
    weights_ = description(row_blocks[0], Epilogue::none, any).weights_desc();
  }

  // The blocked form that the products want their weights in.
  const dnnl::memory::desc& weights() const { return weights_; }

  struct Product {
    dnnl::memory::desc source, bias, destination, scratchpad;
    dnnl::matmul primitive;
  };
  const Product& product(std::size_t block, Epilogue epilogue) {
    std::scoped_lock lock(mutex_);
    std::unique_ptr<Product>& product = products_[static_cast<std::size_t>(epilogue)][block];
    if (!product) {
      const auto chosen = description(row_blocks[block], epilogue, weights_);
      product = std::make_unique<Product>(Product{chosen.src_desc(), chosen.bias_desc(), chosen.dst_desc(),
                                                  chosen.scratchpad_desc(), dnnl::matmul(chosen)});
    }
    return *product;
  }

 private:
  dnnl::matmul::primitive_desc description(std::int64_t rows, Epilogue epilogue,
                                           const dnnl::memory::desc& weights) const {
    using dnnl::memory;
    const memory::desc source({rows, input_size_}, dnnl_type(compute_), memory::format_tag::ab);
    const memory::desc destination({rows, output_size_}, memory::data_type::f32, memory::format_tag::ab);
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    if (epilogue == Epilogue::accumulate) {
      dnnl::post_ops operations;
      operations.append_sum(1.0f);
      attributes.set_post_ops(operations);
    }
    const memory::desc bias({1, output_size_}, memory::data_type::f32, memory::format_tag::ab);
#if DNNL_VERSION_MAJOR >= 3  // Ubuntu 24.04
    if (epilogue == Epilogue::bias) return {engine(), source, weights, bias, destination, attributes};
    return {engine(), source, weights, destination, attributes};
#else  // Debian 12
    if (epilogue == Epilogue::bias)
      return {dnnl::matmul::desc(source, weights, bias, destination), attributes, engine()};
    return {dnnl::matmul::desc(source, weights, destination), attributes, engine()};
#endif
  }

  std::int64_t input_size_, output_size_;
  DType compute_;
  dnnl::memory::desc weights_;
  std::mutex mutex_;
  std::unique_ptr<Product> products_[3][std::size(row_blocks)];
};

class OnednnMatrix final : public HostMatrix {
 public:
  OnednnMatrix(const float* weights, std::int64_t k, std::int64_t n, bool transposed, DType type) {
    input_size = k;
    output_size = n;
    compute = type;
    hold_openmp_to_one_thread();
    shape_ = ProductShape::of(k, n, type);
    packed_ = dnnl::memory(shape_->weights(), engine());
    const dnnl::memory::desc plain({k, n}, dnnl::memory::data_type::f32,
                                   transposed ? dnnl::memory::format_tag::ba : dnnl::memory::format_tag::ab);
    dnnl::memory source(plain, engine(), const_cast<float*>(weights));
    dnnl::reorder(source, packed_).execute(stream(), source, packed_);
    stream().wait();
  }

  void multiply(const void* x, const float* bias, bool accumulate, float* y, std::int64_t rows) const override {
    hold_openmp_to_one_thread();
    const Epilogue epilogue = accumulate ? Epilogue::accumulate : bias ? Epilogue::bias : Epilogue::none;
    const std::size_t x_row = static_cast<std::size_t>(input_size) * size_of(compute);
    std::int64_t row = 0;
    for (std::size_t block = 0; block < std::size(row_blocks); ++block)
      for (; rows - row >= row_blocks[block]; row += row_blocks[block]) {
        const ProductShape::Product& product = shape_->product(block, epilogue);
        const std::byte* from = static_cast<const std::byte*>(x) + static_cast<std::size_t>(row) * x_row;
        std::unordered_map<int, dnnl::memory> arguments = {
            {DNNL_ARG_SRC, {product.source, engine(), const_cast<std::byte*>(from)}},
            {DNNL_ARG_WEIGHTS, packed_},
            {DNNL_ARG_DST, {product.destination, engine(), y + row * output_size}}};
        if (const std::size_t bytes = product.scratchpad.get_size())
          arguments.emplace(DNNL_ARG_SCRATCHPAD, dnnl::memory(product.scratchpad, engine(), scratchpad(bytes)));
        if (epilogue == Epilogue::bias)
          arguments.emplace(DNNL_ARG_BIAS, dnnl::memory(product.bias, engine(), const_cast<float*>(bias)));
        product.primitive.execute(stream(), arguments);
      }
  }

 private:
  std::shared_ptr<ProductShape> shape_;
  dnnl::memory packed_;
};

}  // namespace

std::shared_ptr<HostMatrix> pack_matrix(const float* weights, std::int64_t input_size, std::int64_t output_size,
                                        bool transposed, DType compute) {
  return std::make_shared<OnednnMatrix>(weights, input_size, output_size, transposed, compute);
}

Status supports_compute(DType compute) {
  if (compute == DType::f32) return {};
  if (compute != DType::bf16)
    return Error{Errc::unsupported,
                 "frozen matrix products run in F32 or BF16, not " + std::string(to_string(compute))};
  if (__builtin_cpu_supports("avx512bw")) return {};
  return Error{Errc::unsupported, "bf16 needs a CPU with AVX-512, which this one lacks: set the precision to fp32"};
}

#else

namespace {

class PlainMatrix final : public HostMatrix {
 public:
  PlainMatrix(const float* weights, std::int64_t k, std::int64_t n, bool transposed)
      : values_(static_cast<std::size_t>(k * n)) {
    input_size = k;
    output_size = n;
    for (std::int64_t i = 0; i < k; ++i)
      for (std::int64_t j = 0; j < n; ++j)
        values_[static_cast<std::size_t>(i * n + j)] = transposed ? weights[j * k + i] : weights[i * n + j];
  }

  void multiply(const void* x, const float* bias, bool accumulate, float* y, std::int64_t rows) const override {
    if (!accumulate && bias)
      for (std::int64_t i = 0; i < rows; ++i) std::copy_n(bias, output_size, y + i * output_size);
    simd().matmul(1.0f, static_cast<const float*>(x), input_size, values_.data(), output_size, y, output_size, rows,
                  output_size, input_size, accumulate || bias);
  }

 private:
  std::vector<float> values_;
};

}  // namespace

std::shared_ptr<HostMatrix> pack_matrix(const float* weights, std::int64_t input_size, std::int64_t output_size,
                                        bool transposed, DType) {
  return std::make_shared<PlainMatrix>(weights, input_size, output_size, transposed);
}

Status supports_compute(DType compute) {
  if (compute == DType::f32) return {};
  return Error{Errc::unsupported,
               "this build has no oneDNN, so frozen matrix products run in fp32 only: set the precision "
               "to fp32, or install oneDNN and build again"};
}

#endif

}  // namespace trib::kernels::cpu
