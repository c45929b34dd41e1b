// The table of operations at a training step's sizes, timed on one device: `operation_bench [DEVICE [PART OF A
// NAME]]`. The rates count what an operation must at least do and move, so they are shares of the device's own limits.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <vector>

#include "tests/kernels/operation_cases.h"

int main(int count, char** arguments) {
  using namespace trib::kernels;
  const auto device = open_device(count > 1 ? arguments[1] : "auto");
  if (!device) {
    std::fprintf(stderr, "%s\n", device.error().message.c_str());
    return 1;
  }
  const auto stream = (*device)->make_stream();
  std::setvbuf(stdout, nullptr, _IOLBF, 0);  // a line at a time, also into a file
  std::printf("%s\n%-56s %10s %10s %10s\n", (*device)->name().c_str(), "operation", "us", "TFLOP/s", "GB/s");
  for (const OperationCase& operation : bench_cases()) {
    if (count > 2 && operation.name.find(arguments[2]) == std::string::npos) continue;
    const PreparedOperation prepared = operation.prepare(*stream);
    using Clock = std::chrono::steady_clock;
    std::vector<double> seconds;
    for (int run = 0; run < 3; ++run) prepared.run();
    stream->synchronize();
    for (int repeat = 0; repeat < 7; ++repeat) {
      constexpr int runs = 10;
      const auto begin = Clock::now();
      for (int run = 0; run < runs; ++run) prepared.run();
      stream->synchronize();
      seconds.push_back(std::chrono::duration<double>(Clock::now() - begin).count() / runs);
    }
    std::nth_element(seconds.begin(), seconds.begin() + 3, seconds.end());
    std::printf("%-56s %10.1f %10.1f %10.0f\n", operation.name.c_str(), seconds[3] * 1e6,
                operation.operations / seconds[3] * 1e-12, operation.bytes / seconds[3] * 1e-9);
  }
}
