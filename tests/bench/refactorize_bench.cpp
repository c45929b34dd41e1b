// What FedSVD costs the aggregator each round: 48 adapters of a 1024×1024 layer at rank 8, on one core.
#include <benchmark/benchmark.h>

#include "common/random.h"
#include "kernels/linalg.h"
#include "kernels/per_sample.h"

namespace trib::kernels {
namespace {

void refactorize_48_adapters(benchmark::State& state) {
  const auto stream = cpu_device().make_stream();
  const RandomKey key = RandomKey::from_seed(1);
  constexpr std::int64_t m = 1024, n = 1024, rank = 8;
  std::vector<Refactorization> adapters(48);
  std::vector<Tensor> averaged;
  for (std::size_t i = 0; i < adapters.size(); ++i) {
    averaged.push_back(Tensor::zeros(*stream, DType::f32, {m, rank}));
    add_gaussian_noise(*stream, 1.0, key.bytes(), i, 0, averaged.back());
    adapters[i] = {.b = Tensor(cpu_device(), DType::f32, {m, rank}),
                   .a = Tensor(cpu_device(), DType::f32, {rank, n}),
                   .rotation = Tensor(cpu_device(), DType::f64, {rank, rank})};
    random_orthonormal_rows(*stream, key.bytes(), 1000 + i, adapters[i].a);
  }
  for (auto _ : state) {
    // A round's average of B is new each time; a refactored one would be diagonal already.
    for (std::size_t i = 0; i < adapters.size(); ++i) adapters[i].b.copy_from(*stream, averaged[i]);
    refactorize(*stream, adapters);
  }
}
BENCHMARK(refactorize_48_adapters)->Unit(benchmark::kMillisecond)->UseRealTime();

}  // namespace
}  // namespace trib::kernels
