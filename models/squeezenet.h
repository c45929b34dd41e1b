// SqueezeNet v1.0 (Iandola et al. 2016, arXiv 1602.07360): features are the means over the picture of the 512 channels
// of its last fire module, fire9.
#pragma once

#include "models/image_encoder.h"

namespace trib::models {

// Reads model.safetensors: conv1 and fire2 … fire9 (squeeze1x1, expand1x1, expand3x3), each with weight and bias.
// Errc::invalid_argument for pictures smaller than the network's pools allow.
Result<std::unique_ptr<ImageEncoder>> load_squeezenet(kernels::Device& device, const std::filesystem::path& directory,
                                                      const ImageProcessor& processor,
                                                      kernels::Float32Products products);

}  // namespace trib::models
