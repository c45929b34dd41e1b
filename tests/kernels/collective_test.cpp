// Sums over several devices: exact for integers, the same on every device.
#include "kernels/collective.h"

#include <gtest/gtest.h>

#include <limits>
#include <stdexcept>

#include "tests/kernels/forwarding_device.h"

namespace trib::kernels {
namespace {

// The streams of a collective under test and what keeps them alive.
struct Devices {
  explicit Devices(std::size_t count) {
    for (std::size_t d = 0; d < count; ++d) {
      made.push_back(std::make_unique<ForwardingDevice>("device " + std::to_string(d)));
      owned.push_back(made.back()->make_stream());
      streams.push_back(owned.back().get());
    }
  }
  // Every GPU of this machine, up to `most`.
  static Devices gpus(std::size_t most) {
    Devices devices(0);
    if (const auto opened = open_devices("cuda:all")) {
      for (Device* device : *opened) {
        if (devices.streams.size() == most) break;
        devices.owned.push_back(device->make_stream());
        devices.streams.push_back(devices.owned.back().get());
      }
    }
    return devices;
  }
  std::vector<std::unique_ptr<Device>> made;
  std::vector<std::unique_ptr<Stream>> owned;
  std::vector<Stream*> streams;
};

Tensor integers(Stream& stream, std::vector<std::int64_t> values) {
  return Tensor::from_host(stream, std::span<const std::int64_t>(values));
}
Tensor floats(Stream& stream, std::vector<float> values) {
  return Tensor::from_host(stream, std::span<const float>(values));
}
Tensor doubles(Stream& stream, double value) {
  return Tensor::from_host(stream, std::span<const double>(&value, 1));
}
std::vector<std::int64_t> integers(Stream& stream, const Tensor& tensor) {
  const HostTensor host = tensor.to_host(stream);
  return {host.as<std::int64_t>().begin(), host.as<std::int64_t>().end()};
}
std::vector<float> floats(Stream& stream, const Tensor& tensor) {
  const HostTensor host = tensor.to_host(stream);
  return {host.as<float>().begin(), host.as<float>().end()};
}

void check_sums(Collective& collective, const std::vector<Stream*>& streams) {
  constexpr std::int64_t large = (std::int64_t{1} << 61) + 1;  // no double holds it
  std::vector<std::vector<Tensor>> tensors;
  for (std::size_t d = 0; d < streams.size(); ++d) {
    const auto number = static_cast<std::int64_t>(d);
    tensors.push_back({integers(*streams[d], {number == 0 ? large : number, -5 * number, 7}),
                       floats(*streams[d], {0.5f * static_cast<float>(d), 1.0f}),
                       doubles(*streams[d], 1.0 + 0x1p-40 * static_cast<double>(d))});
  }
  collective.add_to_first(tensors);
  const auto n = static_cast<std::int64_t>(streams.size());
  const std::int64_t triangle = n * (n - 1) / 2;
  const std::vector<std::int64_t> sums = {large + triangle, -5 * triangle, 7 * n};
  EXPECT_EQ(integers(*streams[0], tensors[0][0]), sums);
  const std::vector<float> float_sums = {0.5f * static_cast<float>(triangle), static_cast<float>(n)};
  EXPECT_EQ(floats(*streams[0], tensors[0][1]), float_sums);
  EXPECT_EQ(tensors[0][2].to_host(*streams[0]).as<double>()[0],
            static_cast<double>(n) + 0x1p-40 * static_cast<double>(triangle));
  collective.copy_from_first(tensors);
  for (std::size_t d = 0; d < streams.size(); ++d) {
    EXPECT_EQ(integers(*streams[d], tensors[d][0]), sums) << d;
    EXPECT_EQ(floats(*streams[d], tensors[d][1]), float_sums) << d;
  }
}

TEST(Collective, AddsUpOverHostMemoryAndHandsRound) {
  for (const std::size_t count : {1, 2, 5}) {
    const Devices devices(count);
    check_sums(*make_host_collective(devices.streams), devices.streams);
  }
}

TEST(Collective, IsOverHostMemoryWhereNotAllDevicesAreGpus) {
  const Devices devices(2);
  EXPECT_EQ(make_collective(devices.streams).value()->name(), "host memory");
}

TEST(Collective, RefusesTensorsThatDiffer) {
  const Devices devices(2);
  const auto collective = make_host_collective(devices.streams);
  EXPECT_THROW(collective->add_to_first({{integers(*devices.streams[0], {1})}}), std::invalid_argument);
  EXPECT_THROW(
      collective->add_to_first({{integers(*devices.streams[0], {1})}, {integers(*devices.streams[1], {1, 2})}}),
      std::invalid_argument);
}

TEST(CudaCollective, AddsUpOverNcclWhatIsOnTwoGpus) {
  const Devices devices = Devices::gpus(2);
  if (devices.streams.size() < 2) GTEST_SKIP() << "needs two GPUs";
  const auto collective = make_collective(devices.streams);
  ASSERT_TRUE(collective) << collective.error().message;
  EXPECT_TRUE((*collective)->name().starts_with("NCCL ")) << (*collective)->name();
  for (int i = 0; i < 3; ++i) check_sums(**collective, devices.streams);
}

}  // namespace
}  // namespace trib::kernels
