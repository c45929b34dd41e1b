#include "tasks/class_stream/center.h"

#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <vector>

#include "tasks/class_stream/records.h"

namespace trib::tasks::class_stream {
namespace {

constexpr std::size_t rows_at_once = 1024;  // whose features are there at one time

}  // namespace

Result<std::optional<HostTensor>> compute_center(kernels::Stream& stream, const Config& config,
                                                 const AggregatorContext& context, ItemFeatures& items,
                                                 const Buffer& buffer) {
  if (config.center_file.empty()) return std::optional<HostTensor>();
  Config unlabelled = config;
  unlabelled.label_column.clear();
  TRIB_ASSIGN(data::TextTable table, read_table(context.data_directory / config.center_file, unlabelled, false));
  const std::int64_t width = buffer.width();
  std::vector<double> sums(static_cast<std::size_t>(width), 0.0);
  const std::vector<data::TextRow> rows = std::move(table.rows);
  QuietProgress quiet;
  Progress& progress = context.progress != nullptr ? *context.progress : quiet;
  for (std::size_t first = 0; first < rows.size(); first += rows_at_once) {
    const auto begin = rows.begin() + static_cast<std::ptrdiff_t>(first);
    table.rows.assign(begin, begin + static_cast<std::ptrdiff_t>(std::min(rows_at_once, rows.size() - first)));
    const double total = static_cast<double>(rows.size());
    PartProgress part(progress, static_cast<double>(first) / total, static_cast<double>(table.rows.size()) / total);
    TRIB_ASSIGN(const HostTensor inputs, items.extract(table, &part));
    const HostTensor features = buffer.apply(stream, kernels::Tensor::from_host(stream, inputs)).to_host(stream);
    const auto values = features.as<float>();
    for (std::size_t i = 0; i < values.size(); ++i) sums[i % sums.size()] += static_cast<double>(values[i]);
  }
  HostTensor center(DType::f32, {width});
  std::ranges::transform(sums, center.as<float>().begin(),
                         [&](double sum) { return static_cast<float>(sum / static_cast<double>(rows.size())); });
  return std::optional(std::move(center));
}

Sha256 center_hash(const HostTensor& center) {
  return sha256(center.bytes());
}

Status check_center_hash(const Config& config, const HostTensor& center) {
  if (!config.center_sha256 || center_hash(center) == *config.center_sha256) return {};
  return Error{Errc::invalid_argument,
               fmt::format("the centre of the features is {}, and the job has {} (features.center_sha256): put the "
                           "items that \"{}\" held when it was made back, or submit the job again",
                           to_hex(center_hash(center)), to_hex(*config.center_sha256), config.center_file)};
}

Result<TensorMap> open_center(kernels::Stream& stream, const Config& config, const AggregatorContext& context,
                              ItemFeatures& items, Buffer& buffer) {
  TRIB_ASSIGN(std::optional<HostTensor> center, compute_center(stream, config, context, items, buffer));
  TensorMap constants;
  if (!center) return constants;
  TRIB_TRY(check_center_hash(config, *center));
  buffer.set_center(stream, *center);
  constants[center_name] = *std::move(center);
  return constants;
}

Status take_center(kernels::Stream& stream, const Config& config, const TensorMap& constants, Buffer& buffer) {
  if (config.center_file.empty()) return constants.check_schema(TensorSchema());
  TRIB_TRY(constants.check_schema(TensorSchema({{center_name, DType::f32, {buffer.width()}}})));
  TRIB_TRY(constants.check_finite());
  const HostTensor& center = constants.at(center_name);
  TRIB_TRY(check_center_hash(config, center));
  buffer.set_center(stream, center);
  return {};
}

Status check_center(const Config& config, const Buffer& buffer) {
  if (config.center_file.empty() || buffer.has_center()) return {};
  return Error{Errc::invalid_argument, "the constants of the job have to be set before its first round"};
}

}  // namespace trib::tasks::class_stream
