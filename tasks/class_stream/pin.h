// What the aggregator's machine fixes of a stream when a job is submitted.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"
#include "tasks/class_stream/config.h"
#include "tasks/task.h"

namespace trib::tasks::class_stream {

// Overrides of the job file: the backbone's, the features' and the centre's SHA-256 and, for a job with privacy that
// simulates its stream, from which phase on each label may be predicted. Errc::not_found as check_public_file(), and as
// from opening the backbone.
Result<std::vector<std::string>> pin_stream(const JobSpec& job, const Config& config, const AggregatorContext& context);

// Errc::not_found, naming key and folder, if the aggregator's data directory has no such file; "" is none.
Status check_public_file(const AggregatorContext& context, std::string_view key, const std::string& file);

}  // namespace trib::tasks::class_stream
