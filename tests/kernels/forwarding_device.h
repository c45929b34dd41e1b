// A device that is the CPU under another address and name: for a second device, or one that fails in a test.
#pragma once

#include <memory>
#include <string>

#include "kernels/device.h"

namespace trib::kernels {

class ForwardingDevice : public Device {
 public:
  explicit ForwardingDevice(std::string name) : name_(std::move(name)) {}
  DeviceKind kind() const override { return DeviceKind::cpu; }
  std::string name() const override { return name_; }
  std::size_t free_memory() const override { return cpu_device().free_memory(); }
  std::unique_ptr<Stream> make_stream() override { return std::make_unique<ItsStream>(*this); }
  void* allocate(std::size_t bytes) override { return cpu_device().allocate(bytes); }
  void deallocate(void* pointer, std::size_t bytes) override { cpu_device().deallocate(pointer, bytes); }
  void copy_from_host(Stream& stream, void* to, const void* from, std::size_t bytes) override {
    cpu_device().copy_from_host(stream, to, from, bytes);
  }
  void copy_to_host(Stream& stream, void* to, const void* from, std::size_t bytes) override {
    cpu_device().copy_to_host(stream, to, from, bytes);
  }
  void copy(Stream& stream, void* to, const void* from, std::size_t bytes) override {
    cpu_device().copy(stream, to, from, bytes);
  }
  void fill_zero(Stream& stream, void* to, std::size_t bytes) override { cpu_device().fill_zero(stream, to, bytes); }

 private:
  struct ItsStream final : Stream {
    explicit ItsStream(Device& on) : its_device(on) {}
    Device& device() override { return its_device; }
    void synchronize() override {}
    Device& its_device;
  };
  std::string name_;
};

}  // namespace trib::kernels
