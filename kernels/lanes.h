// Independent work side by side on one device: a training step splits its records over lanes.
#pragma once

#include <cstdint>
#include <functional>

#include "kernels/device.h"

namespace trib::kernels {

// How many lanes keep this stream's device busy: the threads of a CPU.
int lane_count(Stream& stream);

// Rows that keep one lane's products at full speed; more only take memory.
std::int64_t rows_per_lane(Stream& stream);

// Calls body(lane_stream, lane) for every lane in [0, count), concurrently where the device can. What was submitted to
// `stream` before comes before every lane; what is submitted to it after the call comes after all of them. Work on a
// lane's stream uses one thread of a CPU.
void for_each_lane(Stream& stream, int count, const std::function<void(Stream& lane_stream, int lane)>& body);

}  // namespace trib::kernels
