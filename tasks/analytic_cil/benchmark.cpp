#include "tasks/analytic_cil/benchmark.h"

#include <spdlog/fmt/fmt.h>

#include <Eigen/Dense>
#include <algorithm>
#include <boost/json.hpp>
#include <chrono>
#include <cmath>
#include <ctime>

#include "common/net/transfer.h"
#include "common/random.h"
#include "kernels/ridge.h"
#include "tasks/benchmark_options.h"

namespace trib::tasks::analytic_cil {
namespace {

namespace json = boost::json;
using kernels::RidgeSums;
using kernels::Stream;
using kernels::Tensor;

struct Time {
  double wall = 0, processor = 0;  // seconds; of this process's threads together
};

Time time_of(Stream& stream, const std::function<void()>& work) {
  const auto processor_seconds = [] {
    struct timespec now {};
    ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
  };
  stream.synchronize();
  const double processor = processor_seconds();
  const auto begin = std::chrono::steady_clock::now();
  work();
  stream.synchronize();
  return {std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(),
          processor_seconds() - processor};
}

double seconds_of(Stream& stream, const std::function<void()>& work) {
  return time_of(stream, work).wall;
}

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

// The median of as many runs as fit into about a second, five at most, after one that is not timed.
double median_seconds(Stream& stream, const std::function<void()>& work) {
  work();
  std::vector<double> runs;
  for (double total = 0.0; runs.size() < 3 || (runs.size() < 5 && total < 1.0); total += runs.back())
    runs.push_back(seconds_of(stream, work));
  return median(runs);
}

Tensor uniform(Stream& stream, std::int64_t rows, std::int64_t columns, std::uint64_t seed) {
  HostTensor host(DType::f32, {rows, columns});
  ChaCha20Random random(RandomKey::from_seed(seed));
  for (float& value : host.as<float>()) value = static_cast<float>(random.next() >> 40) * 0x1p-24f;
  return Tensor::from_host(stream, host);
}

Tensor labels_of(Stream& stream, std::int64_t records, std::int64_t classes) {
  std::vector<std::int32_t> labels;
  for (std::int64_t i = 0; i < records; ++i) labels.push_back(static_cast<std::int32_t>(i % classes));
  return Tensor::from_host(stream, std::span<const std::int32_t>(labels));
}

// Operations a second of a large product of float64 matrices in Eigen, on the calling thread, as this program is
// compiled: what a product costs without kernels of its own.
double eigen_product_rate() {
  constexpr Eigen::Index size = 1000;
  const Eigen::MatrixXd a = Eigen::MatrixXd::Random(size, size), b = Eigen::MatrixXd::Random(size, size);
  Eigen::MatrixXd c(size, size);
  const auto stream = kernels::cpu_device().make_stream();
  return 2.0 * size * size * size / median_seconds(*stream, [&] { c.noalias() = a * b; });
}

struct Traffic {
  double triangle = 0, sums = 0, frames = 0;  // bytes: of XᵀX's triangle, of all sums, of the frames that carry them
  double seconds = 0;                         // to pack them, one thread
};

// What a site sends in a phase.
Traffic traffic_of(Stream& stream, const RidgeSums& sums) {
  TensorMap tensors;
  tensors["class_sums"] = sums.class_sums.to_host(stream);
  tensors["counts"] = sums.counts.to_host(stream);
  tensors["gram"] = sums.gram.to_host(stream);
  Traffic traffic{.triangle = static_cast<double>(sums.gram.byte_count()),
                  .sums = static_cast<double>(tensors.byte_count())};
  traffic.seconds = seconds_of(
      stream, [&] { traffic.frames = static_cast<double>(net::frame_bytes(tensors, net::ChunkForm::packed)); });
  return traffic;
}

Result<BenchmarkReport> run(const BenchmarkArguments& arguments, Progress& progress) {
  const std::int64_t largest = arguments.integer("buffer"), records = arguments.integer("records"),
                     classes = arguments.integer("classes"), inputs = arguments.integer("features");
  if (arguments.devices.size() > 1)
    return Error{Errc::invalid_argument, "this benchmark measures one device: give --device one name"};
  kernels::Device& device = *arguments.devices.front();
  const auto stream = device.make_stream();
  BenchmarkReport report;
  json::object measured{{"device", device.name()}, {"records", records}, {"classes", classes}};
  const auto line = [&](std::string name, std::string value) {
    report.lines.emplace_back(std::move(name), std::move(value));
  };
  line("device", device.name());
  line("the limit", device.kind() == kernels::DeviceKind::cpu ? "float64 multiply-adds in registers, all threads"
                                                              : "a large float64 product of the vendor's library");
  if (device.kind() == kernels::DeviceKind::cpu) {
    const double eigen = eigen_product_rate();
    measured["eigen_operations_per_second"] = eigen;
    line("Eigen's product", fmt::format("{:.0f} G operations/s (one thread)", eigen * 1e-9));
  }

  std::vector<std::int64_t> buffers;
  for (const std::int64_t buffer : {512, 1024, 2048, 4096})
    if (buffer < largest) buffers.push_back(buffer);
  buffers.push_back(largest);
  json::array sums_measured;
  const Tensor labels = labels_of(*stream, records, classes);
  for (std::size_t i = 0; i < buffers.size(); ++i) {
    if (progress.cancelled()) return Error{Errc::cancelled, "interrupted"};
    progress.fraction("sums", static_cast<double>(i) / static_cast<double>(buffers.size()));
    const std::int64_t d = buffers[i];
    const Tensor x = uniform(*stream, records, d, 1);
    const RidgeSums sums = RidgeSums::zeros(*stream, d, classes);
    // n·d·(d + 1)/2 products and as many additions; the class sums are not counted. The limit is measured right before
    // each run and for as long, so that a busy machine slows both.
    const double operations = static_cast<double>(records) * static_cast<double>(d) * static_cast<double>(d + 1);
    const auto add = [&] { kernels::add_ridge_sums(*stream, x, labels, sums); };
    add();
    double seconds = seconds_of(*stream, add);
    std::vector<double> runs, limits, shares, processor_shares;
    for (int pair = 0; pair < 5; ++pair) {
      double limit = 0;
      const Time limit_time =
          time_of(*stream, [&] { limit = kernels::float64_product_limit(*stream, std::clamp(seconds, 0.05, 1.0)); });
      // Short runs are repeated for as long as the limit took.
      const int repetitions = static_cast<int>(std::clamp(0.05 / seconds, 1.0, 1000.0));
      const Time run_time = time_of(*stream, [&] {
        for (int r = 0; r < repetitions; ++r) add();
      });
      limits.push_back(limit);
      runs.push_back(run_time.wall / repetitions);
      shares.push_back(operations / runs.back() / limit);
      processor_shares.push_back(operations * repetitions / run_time.processor /
                                 (limit * limit_time.wall / limit_time.processor));
    }
    seconds = median(runs);
    const double rate = operations / seconds, limit = median(limits), share = median(shares),
                 processor_share = median(processor_shares);
    json::object entry{{"buffer", d},
                       {"seconds", seconds},
                       {"records_per_second", static_cast<double>(records) / seconds},
                       {"operations_per_second", rate},
                       {"limit_operations_per_second", limit},
                       {"share_of_limit", share}};
    std::string text =
        fmt::format("{:.0f} of {:.0f} G operations/s: {:.1f} %", rate * 1e-9, limit * 1e-9, 100.0 * share);
    if (device.kind() == kernels::DeviceKind::cpu) {
      // What other processes take of the machine is in the wall's share, and not in this one.
      entry["share_of_limit_in_processor_time"] = processor_share;
      text += fmt::format(" ({:.1f} % in processor time)", 100.0 * processor_share);
    }
    sums_measured.push_back(std::move(entry));
    line(fmt::format("sums, {}", d), text + fmt::format("; {:.0f} records/s", static_cast<double>(records) / seconds));
  }
  measured["sums"] = std::move(sums_measured);

  progress.fraction("the buffer layer", 0.0);
  {
    const kernels::RandomFeatures layer(*stream, RandomKey::from_seed(1).bytes(), 0, inputs, largest);
    const Tensor x = uniform(*stream, records, inputs, 2), features(device, DType::f32, {records, largest});
    const double seconds = median_seconds(*stream, [&] { layer.apply(*stream, x, features); });
    measured["buffer_layer"] = json::object{{"inputs", inputs},
                                            {"width", largest},
                                            {"seconds", seconds},
                                            {"records_per_second", static_cast<double>(records) / seconds}};
    line("buffer layer",
         fmt::format("{} to {}: {:.0f} records/s", inputs, largest, static_cast<double>(records) / seconds));
    // Sums of what the layer gives, for the solve and the sweep.
    const RidgeSums sums = RidgeSums::zeros(*stream, largest, classes);
    kernels::add_ridge_sums(*stream, features, labels, sums);
    progress.fraction("the solve", 0.0);
    Status solved;
    const double solve = median_seconds(*stream, [&] {
      if (auto solution = kernels::solve_ridge(*stream, sums.gram, sums.class_sums, 100.0); !solution)
        solved = solution.error();
    });
    TRIB_TRY(solved);
    measured["solve"] = json::object{{"buffer", largest}, {"classes", classes}, {"seconds", solve}};
    line("solve", fmt::format("buffer {}, {} classes: {:.3f} s", largest, classes, solve));

    const std::int64_t sweep_size = std::min(largest, arguments.integer("sweep"));
    if (sweep_size > 0) {
      progress.fraction("the sweep", 0.0);
      const RidgeSums part = RidgeSums::zeros(*stream, sweep_size, classes);
      kernels::add_ridge_sums(*stream, uniform(*stream, records, sweep_size, 3), labels, part);
      constexpr int gammas = 20;
      double decomposition = 0.0, scores = 0.0;
      const auto begin = std::chrono::steady_clock::now();
      TRIB_ASSIGN(const kernels::RidgeSweep sweep, kernels::RidgeSweep::decompose(*stream, part.gram, part.class_sums));
      decomposition = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
      for (int i = 0; i < gammas; ++i) {
        const auto n = static_cast<double>(records);
        if (const auto score = sweep.score(std::exp2(i), n, n); !score) return score.error();
      }
      scores = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() - decomposition;
      measured["sweep"] = json::object{{"buffer", sweep_size},
                                       {"gammas", gammas},
                                       {"decomposition_seconds", decomposition},
                                       {"scores_seconds", scores}};
      line("sweep", fmt::format("buffer {}: one decomposition {:.2f} s, {} gammas {:.3f} s (on the CPU)", sweep_size,
                                decomposition, gammas, scores));
    }

    progress.fraction("packing", 0.0);
    const Traffic traffic = traffic_of(*stream, sums);
    measured["traffic"] = json::object{{"triangle_bytes", traffic.triangle},
                                       {"sums_bytes", traffic.sums},
                                       {"bytes", traffic.frames},
                                       {"over_triangle", traffic.frames / traffic.triangle},
                                       {"over_sums", traffic.frames / traffic.sums},
                                       {"packing_seconds", traffic.seconds}};
    line("a site, a phase",
         fmt::format("{:.2f} MB packed in {:.2f} s: {:.4f} times the triangle of XᵀX in float64, {:.4f} times all sums "
                     "(triangle, class sums, counts)",
                     traffic.frames * 1e-6, traffic.seconds, traffic.frames / traffic.triangle,
                     traffic.frames / traffic.sums));
  }
  report.json = json::serialize(measured);
  return report;
}

}  // namespace

std::vector<Benchmark> benchmarks() {
  return {
      {.name = "analytic",
       .summary = "Learning in closed form on this machine: sums of features, solve, choice of gamma, bytes\n"
                  "Example: trib bench analytic --buffer 5000 --classes 150 --device cpu",
       .options = {integer_option("buffer", "Width of the largest buffer layer", 5000, 1, 50'000),
                   integer_option("features", "Features that the buffer layer reads", 512, 1, 50'000),
                   integer_option("records", "Records that are summed at once", 4096, 1, 10'000'000),
                   integer_option("classes", "Classes", 150, 1, 1'000'000),
                   integer_option("sweep", "Width at which a sweep over gamma is timed; 0 for none", 5000, 0, 50'000)},
       .run = run}};
}

}  // namespace trib::tasks::analytic_cil
