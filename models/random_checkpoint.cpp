#include "models/random_checkpoint.h"

#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <string>

#include "common/files.h"
#include "common/safetensors.h"
#include "common/tensor_map.h"

namespace trib::models {
namespace {

constexpr std::int64_t vocabulary = 50265, positions = 514;

class RandomTensors {
 public:
  explicit RandomTensors(const EncoderSize& size) : size_(size) {
    const std::int64_t d = size.hidden;
    random("embeddings.word_embeddings.weight", {vocabulary, d});
    random("embeddings.position_embeddings.weight", {positions, d});
    random("embeddings.token_type_embeddings.weight", {1, d});
    norm("embeddings.LayerNorm");
    for (std::int64_t i = 0; i < size.layers; ++i) {
      const std::string path = fmt::format("encoder.layer.{}.", i);
      for (const char* part : {"query", "key", "value"}) linear(path + "attention.self." + part, d, d);
      linear(path + "attention.output.dense", d, d);
      norm(path + "attention.output.LayerNorm");
      linear(path + "intermediate.dense", size.intermediate, d);
      linear(path + "output.dense", d, size.intermediate);
      norm(path + "output.LayerNorm");
    }
  }
  const TensorMap& tensors() const { return tensors_; }

 private:
  void random(const std::string& name, Shape shape) {
    HostTensor host(DType::bf16, std::move(shape));
    auto* const to = reinterpret_cast<std::uint16_t*>(host.bytes().data());
    for (std::int64_t i = 0; i < host.element_count(); ++i) {
      state_ = state_ * 6364136223846793005ULL + 1442695040888963407ULL;
      // Uniform on ±√12/2 standard deviations.
      to[i] = float_to_bfloat16((static_cast<float>(state_ >> 40) * 0x1p-24f - 0.5f) * 0.02f * 3.4641f);
    }
    tensors_[fmt::format("roberta.{}", name)] = std::move(host);
  }
  void constant(const std::string& name, std::int64_t count, float value) {
    HostTensor host(DType::bf16, {count});
    std::fill_n(reinterpret_cast<std::uint16_t*>(host.bytes().data()), count, float_to_bfloat16(value));
    tensors_[fmt::format("roberta.{}", name)] = std::move(host);
  }
  void norm(const std::string& path) {
    constant(path + ".weight", size_.hidden, 1.0f);
    constant(path + ".bias", size_.hidden, 0.0f);
  }
  void linear(const std::string& path, std::int64_t outputs, std::int64_t inputs) {
    random(path + ".weight", {outputs, inputs});
    constant(path + ".bias", outputs, 0.0f);
  }

  EncoderSize size_;
  std::uint64_t state_ = 1;
  TensorMap tensors_;
};

}  // namespace

Result<EncoderSize> roberta_size(std::string_view name) {
  if (name == "base") return EncoderSize{768, 12, 12, 3072};
  if (name == "large") return EncoderSize{1024, 24, 16, 4096};
  return Error{Errc::invalid_argument,
               fmt::format("\"{}\" is no size of a model: accepted are \"base\" and \"large\"", name)};
}

Status write_random_checkpoint(const std::filesystem::path& directory, const EncoderSize& size) {
  TRIB_TRY(make_directories(directory));
  const std::string config = fmt::format(
      R"({{"model_type":"roberta","hidden_act":"gelu","layer_norm_eps":1e-5,"pad_token_id":1,"type_vocab_size":1,)"
      R"("hidden_size":{},"num_hidden_layers":{},"num_attention_heads":{},"intermediate_size":{},"vocab_size":{},)"
      R"("max_position_embeddings":{}}})",
      size.hidden, size.layers, size.heads, size.intermediate, vocabulary, positions);
  TRIB_TRY(write_file_durably(directory / "config.json", config));
  return write_safetensors(directory / "model.safetensors", RandomTensors(size).tensors());
}

}  // namespace trib::models
