#include "kernels/lanes.h"

#include "kernels/cpu/thread_pool.h"

namespace trib::kernels {
namespace {

bool is_cpu(Stream& stream) {
  return stream.device().kind() == DeviceKind::cpu;
}

}  // namespace

// A GPU's lanes are inside its kernels.
int lane_count(Stream& stream) {
  return is_cpu(stream) ? cpu::ThreadPool::instance().size() : 1;
}

std::int64_t rows_per_lane(Stream& stream) {
  return is_cpu(stream) ? 1024 : 16384;
}

// On a CPU every operation is done when its call returns, so a lane's stream is any stream, and the order that
// for_each_lane promises is that of the calls. Operations inside a lane see that they are in a task and stay serial.
void for_each_lane(Stream& stream, int count, const std::function<void(Stream&, int)>& body) {
  if (!is_cpu(stream)) {
    for (int lane = 0; lane < count; ++lane) body(stream, lane);
    return;
  }
  cpu::ThreadPool::instance().run(count, [&](int lane) {
    const std::unique_ptr<Stream> lane_stream = stream.device().make_stream();
    body(*lane_stream, lane);
  });
}

}  // namespace trib::kernels
