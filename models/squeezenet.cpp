#include "models/squeezenet.h"

#include <spdlog/fmt/fmt.h>

#include <array>

#include "kernels/convolution.h"
#include "models/checkpoint.h"

namespace trib::models {
namespace {

using kernels::Stream;
using kernels::Tensor;
using kernels::Windows;
using kernels::Workspace;

struct Filter {
  kernels::PackedMatrix weights;
  Tensor bias;
};

// A fire module's output is two halves of channels, which are never laid side by side: what follows is a sum over
// channels, or works on each channel alone.
struct Fire {
  std::int64_t squeezed, half;  // channels
  std::vector<Filter> squeeze;  // for the input, or for each of its halves
  Filter expand1x1, expand3x3;
};

struct FireSize {
  std::string_view name;
  std::int64_t squeezed, half;
  bool pooled_before;
};
constexpr FireSize fire_sizes[] = {{"fire2", 16, 64, true},   {"fire3", 16, 64, false},  {"fire4", 32, 128, false},
                                   {"fire5", 32, 128, true},  {"fire6", 48, 192, false}, {"fire7", 48, 192, false},
                                   {"fire8", 64, 256, false}, {"fire9", 64, 256, true}};
constexpr std::int64_t first_channels = 96, first_window = 7, pool_window = 3, stride = 2, smallest_size = 29;

class Squeezenet final : public ImageEncoder {
 public:
  Squeezenet(kernels::Device& device, const ImageProcessor& processor)
      : ImageEncoder(device, processor, device.kind() == kernels::DeviceKind::cpu ? 1 : 64) {}

  std::int64_t width() const override { return 2 * fire_sizes[std::size(fire_sizes) - 1].half; }

  double operations() const override {
    std::int64_t side = first_output(), pixels = side * side, channels = first_channels;
    double total = static_cast<double>(pixels * first_window * first_window * 3 * first_channels);
    for (const FireSize& fire : fire_sizes) {
      if (fire.pooled_before) side = pooled(side);
      pixels = side * side;
      total += static_cast<double>(pixels * fire.squeezed * (channels + 10 * fire.half));
      channels = 2 * fire.half;
    }
    return 2.0 * total;
  }

  Status load(const std::filesystem::path& directory, kernels::Float32Products products) {
    TRIB_ASSIGN(const Checkpoint checkpoint, Checkpoint::read(directory));
    const auto filter = [&](const std::string& name, std::int64_t outputs, std::int64_t channels, std::int64_t window,
                            std::int64_t parts, std::vector<Filter>& to) -> Status {
      TRIB_ASSIGN(const HostTensor weights, checkpoint.tensor(name + ".weight", {outputs, channels, window, window}));
      TRIB_ASSIGN(const HostTensor bias, checkpoint.tensor(name + ".bias", {outputs}));
      const Tensor matrix = Tensor::from_host(stream(), window_weights(weights));
      const std::int64_t rows = matrix.dim(0) / parts;
      for (std::int64_t part = 0; part < parts; ++part)
        to.push_back({kernels::PackedMatrix(stream(), matrix.rows(part * rows, rows), false, DType::f32, products),
                      part == 0 ? Tensor::from_host(stream(), bias) : Tensor()});
      return {};
    };
    std::vector<Filter> one;
    TRIB_TRY(filter("conv1", first_channels, 3, first_window, 1, one));
    first_ = one.back();
    std::int64_t channels = first_channels, parts = 1;
    for (const FireSize& size : fire_sizes) {
      const std::string name(size.name);
      Fire& fire = fires_.emplace_back();
      fire.squeezed = size.squeezed;
      fire.half = size.half;
      TRIB_TRY(filter(name + ".squeeze1x1", size.squeezed, channels, 1, parts, fire.squeeze));
      TRIB_TRY(filter(name + ".expand1x1", size.half, size.squeezed, 1, 1, one));
      fire.expand1x1 = one.back();
      TRIB_TRY(filter(name + ".expand3x3", size.half, size.squeezed, 3, 1, one));
      fire.expand3x3 = one.back();
      channels = 2 * size.half;
      parts = 2;
    }
    return {};
  }

 private:
  std::int64_t first_output() const { return (processor().size - first_window) / stride + 1; }
  static std::int64_t pooled(std::int64_t side) { return kernels::pooled_size(side, pool_window, stride); }

  void forward(Stream& stream, Workspace& workspace, const Tensor& x, std::int64_t images,
               const Tensor& out) const override {
    const auto take = [&](std::int64_t side, std::int64_t channels) {
      return workspace.take(DType::f32, {images * side * side, channels});
    };
    std::int64_t side = first_output();
    const Windows first{images, processor().size, processor().size, 3, first_window, stride, 0};
    std::vector<Tensor> state = {take(side, first_channels)};
    kernels::convolution(stream, workspace, x, first, first_.weights, first_.bias, false, true, state.front());

    for (std::size_t i = 0; i < fires_.size(); ++i) {
      const Fire& fire = fires_[i];
      if (fire_sizes[i].pooled_before) {
        const std::int64_t smaller = pooled(side);
        for (Tensor& part : state) {
          const Tensor pooled_part = take(smaller, part.dim(1));
          kernels::max_pool(stream, part, {images, side, side, part.dim(1), pool_window, stride, 0}, pooled_part);
          part = pooled_part;
        }
        side = smaller;
      }
      const Tensor squeezed = take(side, fire.squeezed);
      for (std::size_t part = 0; part < state.size(); ++part)
        kernels::convolution(stream, workspace, state[part], {images, side, side, state[part].dim(1), 1, 1, 0},
                             fire.squeeze[part].weights, fire.squeeze[part].bias, part > 0, part + 1 == state.size(),
                             squeezed);
      state = {take(side, fire.half), take(side, fire.half)};
      kernels::convolution(stream, workspace, squeezed, {images, side, side, fire.squeezed, 1, 1, 0},
                           fire.expand1x1.weights, fire.expand1x1.bias, false, true, state[0]);
      kernels::convolution(stream, workspace, squeezed, {images, side, side, fire.squeezed, 3, 1, 1},
                           fire.expand3x3.weights, fire.expand3x3.bias, false, true, state[1]);
    }
    // The means of both halves, beside each other.
    const std::int64_t half = state[0].dim(1);
    for (std::int64_t part = 0; part < 2; ++part)
      kernels::mean_pool(stream, state[static_cast<std::size_t>(part)], images, {out, part * half, half});
  }

  Filter first_;
  std::vector<Fire> fires_;
};

}  // namespace

Result<std::unique_ptr<ImageEncoder>> load_squeezenet(kernels::Device& device, const std::filesystem::path& directory,
                                                      const ImageProcessor& processor,
                                                      kernels::Float32Products products) {
  if (processor.size < smallest_size)
    return Error{Errc::invalid_argument,
                 fmt::format("pictures of {} pixels are too small for the pools of the network in {}: the smallest are "
                             "of {}",
                             processor.size, directory.native(), smallest_size)};
  auto encoder = std::make_unique<Squeezenet>(device, processor);
  TRIB_TRY(encoder->load(directory, products));
  return std::unique_ptr<ImageEncoder>(std::move(encoder));
}

}  // namespace trib::models
