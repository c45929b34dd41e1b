// Features of frozen backbones: how fast, and what they are good for.
//   feature_bench speed DEVICE BACKBONE [SIZE [PRECISION]]
// BACKBONE is a model's directory, SIZE the tokens of a text (64) or the pixels of a picture (the backbone's own).
// Prints features a second, from what is in memory, beside what the device's large matrix products allow.
//   feature_bench probe DEVICE BACKBONE TRAIN TEST [SIZE [PER_CLASS [COLUMNS]]]
// TRAIN and TEST are tables or folders of pictures (tasks/data/image_table.h), COLUMNS "text,label" by default. Fits
// ridge regression on the features of at most PER_CLASS records of each class, with the gamma that is best on a fifth
// of them, and prints the accuracy on TEST, and features a second with reading and decoding in them.
#include <Eigen/Dense>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <numeric>
#include <random>
#include <string>

#include "kernels/gemm.h"
#include "kernels/lanes.h"
#include "models/image_encoder.h"
#include "models/roberta_checkpoint.h"
#include "models/text_classifier.h"
#include "tasks/features/extractor.h"

namespace trib::tasks::features {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// The median of several times, after one that warms up.
template <typename Work>
double median_seconds(const Work& work) {
  work();
  std::vector<double> times;
  const auto begin = Clock::now();
  while (times.size() < 5 || (seconds_since(begin) < 3.0 && times.size() < 51)) {
    const auto start = Clock::now();
    work();
    times.push_back(seconds_since(start));
  }
  std::ranges::nth_element(times, times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2));
  return times[times.size() / 2];
}

// Operations a second of a product that is large for the device.
double product_limit(kernels::Device& device, kernels::Float32Products products) {
  const auto stream = device.make_stream();
  const std::int64_t rows = device.kind() == kernels::DeviceKind::cpu ? 4096 : 8192,
                     size = device.kind() == kernels::DeviceKind::cpu ? 1024 : 8192;
  const kernels::Tensor weights = kernels::Tensor::zeros(*stream, DType::f32, {size, size}),
                        x = kernels::Tensor::zeros(*stream, DType::f32, {rows, size}),
                        y(device, DType::f32, {rows, size});
  const kernels::PackedMatrix matrix(*stream, weights, false, DType::f32, products);
  const double seconds = median_seconds([&] {
    kernels::packed_product(*stream, x, matrix, {}, false, y);
    stream->synchronize();
  });
  return 2.0 * static_cast<double>(rows) * static_cast<double>(size) * static_cast<double>(size) / seconds;
}

Result<models::Precision> precision_of(const std::string& name) {
  if (name == "fp32") return models::Precision::fp32;
  if (name == "tf32") return models::Precision::tf32;
  if (name == "bf16") return models::Precision::bf16;
  return Error{Errc::invalid_argument, "PRECISION is " + name + "; accepted are fp32, tf32 and bf16"};
}

struct Arguments {
  kernels::Device* device = nullptr;
  BaseModel backbone;
  ItemKind kind = ItemKind::text;
  std::int64_t size = 0;  // 0: by default
  models::Precision precision = models::Precision::fp32;
};

Status speed(const Arguments& arguments) {
  const auto products =
      arguments.precision == models::Precision::tf32 ? kernels::Float32Products::tf32 : kernels::Float32Products::exact;
  double operations = 0.0, seconds = 0.0;
  std::int64_t count = 0, size = arguments.size;
  if (arguments.kind == ItemKind::image) {
    TRIB_ASSIGN(const auto encoder,
                models::load_image_encoder(*arguments.device, arguments.backbone.directory, size, products));
    size = encoder->processor().size;
    count = encoder->suggested_batch();
    HostTensor pixels(DType::f32, {count, size, size, 3});
    std::mt19937 random(1);
    for (float& value : pixels.as<float>()) value = static_cast<float>(random() % 256) - 128.0f;
    seconds = median_seconds([&] { encoder->features(pixels); });
    operations = encoder->operations();
  } else {
    TRIB_ASSIGN(const models::RobertaConfig roberta, models::read_roberta_config(arguments.backbone.directory));
    size = size == 0 ? 64 : size;
    models::ClassifierConfig config;
    config.adapter.targets = {};
    config.adapter.rank = 1;
    config.head = models::HeadTraining::frozen;
    config.precision = arguments.precision;
    config.max_tokens = size;
    TRIB_ASSIGN(const auto encoder,
                models::TextClassifier::load(*arguments.device, arguments.backbone.directory, config));
    count = encoder->suggested_micro_batch(size);
    const models::TokenizedText text{.tokens = std::vector<std::int32_t>(static_cast<std::size_t>(size), 5),
                                     .label = 0};
    const std::vector<const models::TokenizedText*> batch(static_cast<std::size_t>(count), &text);
    seconds = median_seconds([&] { encoder->mean_states(batch); });
    const auto t = static_cast<double>(size), d = static_cast<double>(roberta.hidden_size),
               wide = static_cast<double>(roberta.intermediate_size);
    operations = 2.0 * static_cast<double>(roberta.layers) * (t * (4.0 * d * d + 2.0 * d * wide) + 2.0 * t * t * d);
  }
  const double rate = static_cast<double>(count) / seconds, limit = product_limit(*arguments.device, products);
  std::printf(
      "%s on %s, size %lld, batches of %lld: %.1f features/s, %.3f G operations each: %.1f of %.1f GFLOP/s (%.0f %%)\n",
      arguments.backbone.directory.filename().c_str(), arguments.device->name().c_str(), static_cast<long long>(size),
      static_cast<long long>(count), rate, operations * 1e-9, rate * operations * 1e-9, limit * 1e-9,
      100.0 * rate * operations / limit);
  return {};
}

struct Set {
  Eigen::MatrixXd x;  // with a column of ones
  std::vector<std::size_t> labels;
};

Result<Set> read_set(FeatureExtractor& extractor, const std::filesystem::path& path, std::int64_t per_class,
                     const data::TextTableOptions& options, std::map<std::string, std::size_t>& classes) {
  TRIB_ASSIGN(data::TextTable table, read_items(path, extractor.kind(), options));
  if (per_class > 0) {
    std::map<std::string, std::int64_t> taken;
    std::erase_if(table.rows, [&](const data::TextRow& row) { return ++taken[row.label.value()] > per_class; });
  }
  QuietProgress progress;
  const auto start = Clock::now();
  TRIB_ASSIGN(const HostTensor features,
              extract_features(extractor, nullptr, items_of(table, extractor.kind()), progress));
  const double seconds = seconds_since(start);
  std::printf("%s: %zu records, %.1f features/s with reading\n", path.c_str(), table.rows.size(),
              static_cast<double>(table.rows.size()) / seconds);
  Set set;
  const auto n = static_cast<Eigen::Index>(table.rows.size()), d = static_cast<Eigen::Index>(extractor.width());
  set.x.resize(n, d + 1);
  for (Eigen::Index i = 0; i < n; ++i) {
    for (Eigen::Index j = 0; j < d; ++j) set.x(i, j) = features.as<float>()[static_cast<std::size_t>(i * d + j)];
    set.x(i, d) = 1.0;
  }
  for (const data::TextRow& row : table.rows)
    set.labels.push_back(classes.emplace(row.label.value(), classes.size()).first->second);
  return set;
}

double accuracy(const Eigen::MatrixXd& scores, std::span<const std::size_t> labels) {
  std::size_t right = 0;
  for (Eigen::Index i = 0; i < scores.rows(); ++i) {
    Eigen::Index best = 0;
    scores.row(i).maxCoeff(&best);
    right += static_cast<std::size_t>(best) == labels[static_cast<std::size_t>(i)] ? 1 : 0;
  }
  return static_cast<double>(right) / static_cast<double>(scores.rows());
}

Eigen::MatrixXd ridge(const Eigen::MatrixXd& x, std::span<const std::size_t> labels, std::size_t classes,
                      double gamma) {
  Eigen::MatrixXd y = Eigen::MatrixXd::Zero(x.rows(), static_cast<Eigen::Index>(classes));
  for (Eigen::Index i = 0; i < x.rows(); ++i)
    y(i, static_cast<Eigen::Index>(labels[static_cast<std::size_t>(i)])) = 1.0;
  Eigen::MatrixXd gram = x.transpose() * x;
  gram.diagonal().array() += gamma * gram.trace() / static_cast<double>(gram.rows());
  return gram.ldlt().solve(x.transpose() * y);
}

Status probe(const Arguments& arguments, const std::filesystem::path& train_path,
             const std::filesystem::path& test_path, std::int64_t per_class, const data::TextTableOptions& options) {
  FeaturesConfig config;
  config.precision = arguments.precision;
  if (arguments.kind == ItemKind::image) config.image_size = arguments.size;
  if (arguments.kind == ItemKind::text && arguments.size > 0) config.max_tokens = arguments.size;
  SharedResources shared;
  TRIB_ASSIGN(const auto extractor, open_extractor(arguments.backbone, config, *arguments.device, shared));
  std::map<std::string, std::size_t> classes;
  TRIB_ASSIGN(const Set train, read_set(*extractor, train_path, per_class, options, classes));
  TRIB_ASSIGN(const Set test, read_set(*extractor, test_path, 0, options, classes));

  std::vector<Eigen::Index> order(static_cast<std::size_t>(train.x.rows()));
  std::iota(order.begin(), order.end(), Eigen::Index{0});
  std::ranges::shuffle(order, std::mt19937(1));
  const std::size_t held_out = order.size() / 5;
  const auto part = [&](std::size_t first, std::size_t count) {
    Set set;
    const std::vector<Eigen::Index> rows(order.begin() + static_cast<std::ptrdiff_t>(first),
                                         order.begin() + static_cast<std::ptrdiff_t>(first + count));
    set.x = train.x(rows, Eigen::all);
    for (const Eigen::Index row : rows) set.labels.push_back(train.labels[static_cast<std::size_t>(row)]);
    return set;
  };
  const Set tune = part(0, held_out), fit = part(held_out, order.size() - held_out);
  double best_gamma = 0.0, best = -1.0;
  for (const double gamma : {1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1}) {
    const double score = accuracy(tune.x * ridge(fit.x, fit.labels, classes.size(), gamma), tune.labels);
    if (score > best) {
      best = score;
      best_gamma = gamma;
    }
  }
  const Eigen::MatrixXd weights = ridge(train.x, train.labels, classes.size(), best_gamma);
  std::printf(
      "%zu classes, ridge with gamma %g of the mean eigenvalue: accuracy %.2f %% (on the training set %.2f %%)\n",
      classes.size(), best_gamma, 100.0 * accuracy(test.x * weights, test.labels),
      100.0 * accuracy(train.x * weights, train.labels));
  return {};
}

Status run(int count, char** values) {
  const auto argument = [&](int i) { return i < count ? std::string(values[i]) : std::string(); };
  const bool is_speed = argument(1) == "speed", is_probe = argument(1) == "probe";
  if ((!is_speed && !is_probe) || count < (is_speed ? 4 : 6))
    return Error{
        Errc::invalid_argument,
        "usage: feature_bench speed DEVICE BACKBONE [SIZE [PRECISION]], or feature_bench probe DEVICE BACKBONE "
        "TRAIN TEST [SIZE [PER_CLASS [COLUMNS]]]"};
  Arguments arguments;
  TRIB_ASSIGN(arguments.device, kernels::open_device(argument(2)));
  arguments.backbone.directory = std::filesystem::path(argument(3));
  TRIB_ASSIGN(arguments.backbone.hash, models::base_model_hash(arguments.backbone.directory));
  TRIB_ASSIGN(arguments.kind, item_kind(arguments.backbone));
  arguments.size = std::atoll(argument(is_speed ? 4 : 6).c_str());
  if (is_speed) {
    if (count > 5) {
      TRIB_ASSIGN(arguments.precision, precision_of(argument(5)));
    }
    return speed(arguments);
  }
  const std::string columns = count > 8 ? argument(8) : "text,label";
  const std::size_t comma = columns.find(',');
  if (comma == std::string::npos) return Error{Errc::invalid_argument, "COLUMNS are two names, with a comma between"};
  return probe(arguments, argument(4), argument(5), std::atoll(argument(7).c_str()),
               {.text_column = columns.substr(0, comma), .label_column = columns.substr(comma + 1)});
}

}  // namespace
}  // namespace trib::tasks::features

int main(int count, char** arguments) {
  const trib::Status done = trib::tasks::features::run(count, arguments);
  if (done) return 0;
  std::fprintf(stderr, "feature_bench: %s\n", done.error().message.c_str());
  return 1;
}
