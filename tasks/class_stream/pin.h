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
// simulates its stream, from which phase on each label may be predicted. A SHA-256 that the job gives already must be
// that of what is here (Errc::unsupported, Errc::invalid_argument). Errors as from check_public_file(),
// check_public_set(), and opening the backbone.
Result<std::vector<std::string>> pin_stream(const JobSpec& job, const Config& config, const AggregatorContext& context);

// Errc::not_found, naming key and folder, if the aggregator's data directory has no such file; "" is none.
Status check_public_file(const AggregatorContext& context, std::string_view key, const std::string& file);
// The same for a labelled set, which must also be readable: errors as read_public_set(), with the key.
Status check_public_set(const AggregatorContext& context, std::string_view key, const std::string& file,
                        const Config& config);

}  // namespace trib::tasks::class_stream
