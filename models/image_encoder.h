// Frozen networks that turn pictures into vectors.
#pragma once

#include <filesystem>
#include <memory>
#include <vector>

#include "common/result.h"
#include "common/tensor_map.h"
#include "kernels/gemm.h"
#include "kernels/tensor.h"
#include "models/image_processor.h"

namespace trib::models {

class ImageEncoder {
 public:
  virtual ~ImageEncoder() = default;
  virtual std::int64_t width() const = 0;
  // What the network was trained on; with the size that load() was given.
  const ImageProcessor& processor() const { return processor_; }
  // Floating-point operations of one picture's products, for measuring.
  virtual double operations() const = 0;

  // (N, width) float32, in host memory, for pixels (N, size, size, 3) as the processor writes them. Where the device's
  // memory runs out, fewer pictures are worked on at once.
  HostTensor features(const HostTensor& pixels);
  kernels::Stream& stream() { return *stream_; }
  // Pictures of one call that keep the device busy.
  std::int64_t suggested_batch() const;

 protected:
  ImageEncoder(kernels::Device& device, ImageProcessor processor, std::int64_t images_at_once);
  // out (images, width) = the features of x (images·size·size, 3). One lane's work.
  virtual void forward(kernels::Stream& stream, kernels::Workspace& workspace, const kernels::Tensor& x,
                       std::int64_t images, const kernels::Tensor& out) const = 0;

 private:
  struct Lane;
  struct LaneDeleter {
    void operator()(Lane* lane) const;
  };
  std::unique_ptr<kernels::Stream> stream_;
  ImageProcessor processor_;
  std::int64_t images_at_once_;  // in one lane
  std::vector<std::unique_ptr<Lane, LaneDeleter>> lanes_;
};

// A network by the "model_type" of config.json: "squeezenet" or "vit". Pictures are brought to `image_size` pixels both
// ways, or to what preprocessor_config.json says where it is 0. Errors name the file and what is missing; unsupported
// for another type or activation, invalid_argument for an image_size that the network cannot take.
Result<std::unique_ptr<ImageEncoder>> load_image_encoder(kernels::Device& device,
                                                         const std::filesystem::path& directory,
                                                         std::int64_t image_size, kernels::Float32Products products);

// The weights of a convolution as kernels::convolution() takes them, (window·window·channels, outputs), from
// PyTorch's (outputs, channels, window, window).
HostTensor window_weights(const HostTensor& weights);

}  // namespace trib::models
