// A public centre of the features.
//
// Features of a frozen backbone, and random ones over them even more, share a large common part: of a record that is
// scaled to norm 1 little is about its class. `features.center_file` names public items at the aggregator; their mean
// is taken off the features of every record, at every site, before norms are bounded. It is the job's one constant:
// sites fetch it once, by digest. No record of a site has a part in it, so it costs no privacy.
#pragma once

#include <filesystem>
#include <optional>

#include "common/hash.h"
#include "common/result.h"
#include "common/tensor_map.h"
#include "kernels/device.h"
#include "tasks/class_stream/buffer.h"
#include "tasks/class_stream/config.h"
#include "tasks/class_stream/items.h"

namespace trib::tasks::class_stream {

inline constexpr const char* center_name = "center";

// The mean of the buffer's features, centred or not, over the items of config.center_file: (width) float32. None where
// the job names no file. Errors as from reading the file and from making its features.
Result<std::optional<HostTensor>> compute_center(kernels::Stream& stream, const Config& config,
                                                 const AggregatorContext& context, ItemFeatures& items,
                                                 const Buffer& buffer);
Sha256 center_hash(const HostTensor& center);
// Errc::invalid_argument if the job names another centre (features.center_sha256), with both.
Status check_center_hash(const Config& config, const HostTensor& center);

// The aggregator's part: sets the buffer's centre, and gives the constants of the job, which are empty without one.
// Errc::invalid_argument if the file's items are not those that were there at submission.
Result<TensorMap> open_center(kernels::Stream& stream, const Config& config, const AggregatorContext& context,
                              ItemFeatures& items, Buffer& buffer);

// A site's part: sets the buffer's centre from the job's constants. Errc::invalid_argument if they are not what the job
// has.
Status take_center(kernels::Stream& stream, const Config& config, const TensorMap& constants, Buffer& buffer);
// Ok once a job that has a centre was given it.
Status check_center(const Config& config, const Buffer& buffer);

}  // namespace trib::tasks::class_stream
