// The Vision Transformer (Dosovitskiy et al. 2020, arXiv 2010.11929) from Hugging Face's files: features are the last
// state of the [CLS] token, behind the final layer normalization.
#pragma once

#include "kernels/layer_norm.h"
#include "models/image_encoder.h"

namespace trib::models {

struct VitConfig {
  std::int64_t hidden_size = 0, intermediate_size = 0, layers = 0, heads = 0, image_size = 0, patch_size = 0;
  double layer_norm_epsilon = 1e-12;
  bool qkv_bias = true;
  std::int64_t patches_a_side() const { return image_size / patch_size; }
  std::int64_t tokens() const { return patches_a_side() * patches_a_side() + 1; }
};

// Errc::not_found, io_error, corrupt, or unsupported (another architecture or activation, not three channels).
Result<VitConfig> read_vit_config(const std::filesystem::path& directory);

class VitEncoder final : public ImageEncoder {
 public:
  // ViTModel's names, with or without "vit." before them.
  static Result<std::unique_ptr<VitEncoder>> load(kernels::Device& device, const std::filesystem::path& directory,
                                                  const ImageProcessor& processor, kernels::Float32Products products);
  std::int64_t width() const override { return config_.hidden_size; }
  double operations() const override;

  // last (images·tokens, hidden size) = the states of all tokens, behind the final layer normalization, of
  // x (images·size·size, 3).
  void forward_all(kernels::Stream& stream, kernels::Workspace& workspace, const kernels::Tensor& x,
                   std::int64_t images, const kernels::Tensor& last) const;

 private:
  struct Linear {
    kernels::PackedMatrix weights;
    kernels::Tensor bias;
  };
  struct Layer {
    kernels::LayerNormWeights before, after;
    Linear query_key_value, attention_output, intermediate, output;
  };
  VitEncoder(kernels::Device& device, const ImageProcessor& processor, const VitConfig& config);
  // x + blocks: the states (images·tokens, hidden size) before the final normalization.
  kernels::Tensor states(kernels::Stream& stream, kernels::Workspace& workspace, const kernels::Tensor& x,
                         std::int64_t images) const;
  void forward_layer(kernels::Stream& stream, kernels::Workspace& workspace, const Layer& layer,
                     const kernels::Tensor& offsets, const kernels::Tensor& state) const;
  void forward(kernels::Stream& stream, kernels::Workspace& workspace, const kernels::Tensor& x, std::int64_t images,
               const kernels::Tensor& out) const override;

  VitConfig config_;
  Linear patches_;
  kernels::Tensor class_token_, positions_, zero_;  // (1, d), (tokens, d), (d)
  std::vector<Layer> layers_;
  kernels::LayerNormWeights last_norm_;
};

Result<std::unique_ptr<ImageEncoder>> load_vit(kernels::Device& device, const std::filesystem::path& directory,
                                               const ImageProcessor& processor, kernels::Float32Products products);

}  // namespace trib::models
