#include "tasks/class_stream/pin.h"

#include <spdlog/fmt/fmt.h>
#include <spdlog/fmt/ranges.h>

#include "tasks/class_stream/buffer.h"
#include "tasks/class_stream/center.h"
#include "tasks/class_stream/records.h"
#include "tasks/class_stream/simulate.h"

namespace trib::tasks::class_stream {

Status check_public_file(const AggregatorContext& context, std::string_view key, const std::string& file) {
  if (file.empty() || std::filesystem::exists(context.data_directory / file)) return {};
  return Error{Errc::not_found,
               fmt::format("{} = \"{}\": there is no such file in the aggregator's data directory {} (tasks.data in "
                           "server.toml): copy the public set there, name another, or leave it out",
                           key, file, context.data_directory.string())};
}

Status check_public_set(const AggregatorContext& context, std::string_view key, const std::string& file,
                        const Config& config) {
  TRIB_TRY(check_public_file(context, key, file));
  if (file.empty()) return {};
  const auto set = read_public_set(context.data_directory / file, config, 0);
  return set ? Status() : set.error().with_context(std::string(key));
}

Result<std::vector<std::string>> pin_stream(const JobSpec& job, const Config& config,
                                            const AggregatorContext& context) {
  TRIB_TRY(check_public_set(context, "evaluation.file", config.evaluation_file, config));
  TRIB_TRY(check_public_file(context, "features.center_file", config.center_file));
  AggregatorContext own = context;
  if (!own.shared) own.shared = std::make_shared<SharedResources>();
  std::vector<std::string> overrides;
  TRIB_ASSIGN(const std::optional<Sha256> backbone, find_backbone(config, own));
  if (backbone) overrides.push_back(fmt::format("features.backbone_sha256=\"{}\"", to_hex(*backbone)));
  TRIB_ASSIGN(const std::shared_ptr<ItemFeatures> items, open_aggregator_items(config, own));
  const auto stream = context.device->make_stream();
  TRIB_ASSIGN(const Buffer buffer, shared_buffer(*stream, config, items->width(), *own.shared));
  TRIB_TRY(check_features(*stream, config, *items, buffer));
  overrides.push_back(fmt::format("features.sha256=\"{}\"", to_hex(buffer.identity(*stream, items->identity()))));
  TRIB_ASSIGN(const std::optional<HostTensor> center, compute_center(*stream, config, context, *items, buffer));
  if (center) {
    TRIB_TRY(check_center_hash(config, *center));
    overrides.push_back(fmt::format("features.center_sha256=\"{}\"", to_hex(center_hash(*center))));
  }
  if (job.privacy.enabled && config.label_phases.empty() && !config.simulated_file.empty()) {
    TRIB_ASSIGN(const data::ClassSchedule schedule, simulated_schedule(job, config));
    overrides.push_back(fmt::format("protocol.label_phases=[{}]", fmt::join(schedule.task_of_class, ", ")));
  }
  return overrides;
}

}  // namespace trib::tasks::class_stream
