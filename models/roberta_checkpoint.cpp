#include "models/roberta_checkpoint.h"

#include <boost/json/object.hpp>
#include <boost/json/value.hpp>

#include "models/json_file.h"

namespace trib::models {

Result<RobertaConfig> read_roberta_config(const std::filesystem::path& directory) {
  const std::filesystem::path path = directory / "config.json";
  TRIB_ASSIGN(const boost::json::object json, read_json_object(path));
  auto refuse = [&](std::string_view key, std::string_view accepted) {
    return Error{Errc::unsupported, path.string() + ": \"" + std::string(key) + "\" is \"" + text_at(json, key) +
                                        "\"; only " + std::string(accepted) + " is supported"};
  };
  if (text_at(json, "model_type") != "roberta") return refuse("model_type", "\"roberta\"");
  if (text_at(json, "hidden_act") != "gelu") return refuse("hidden_act", "\"gelu\" (the exact form)");
  if (std::string scheme = text_at(json, "position_embedding_type"); !scheme.empty() && scheme != "absolute")
    return refuse("position_embedding_type", "\"absolute\"");
  RobertaConfig config;
  TRIB_ASSIGN(config.hidden_size, positive_at(json, "hidden_size", path));
  TRIB_ASSIGN(config.intermediate_size, positive_at(json, "intermediate_size", path));
  TRIB_ASSIGN(config.layers, positive_at(json, "num_hidden_layers", path));
  TRIB_ASSIGN(config.heads, positive_at(json, "num_attention_heads", path));
  TRIB_ASSIGN(config.vocabulary_size, positive_at(json, "vocab_size", path));
  TRIB_ASSIGN(config.max_positions, positive_at(json, "max_position_embeddings", path));
  TRIB_ASSIGN(config.layer_norm_epsilon, number_at(json, "layer_norm_eps", config.layer_norm_epsilon, path));
  TRIB_ASSIGN(config.initializer_range, number_at(json, "initializer_range", config.initializer_range, path));
  if (json.contains("pad_token_id")) {
    TRIB_ASSIGN(config.pad_token, positive_at(json, "pad_token_id", path));
  }
  if (config.hidden_size % config.heads != 0)
    return corrupt_file(path, "\"hidden_size\" (" + std::to_string(config.hidden_size) +
                                  ") is not a multiple of \"num_attention_heads\" (" + std::to_string(config.heads) +
                                  ")");
  if (config.longest_record() < 2)
    return corrupt_file(path, "\"max_position_embeddings\" leaves no room behind the padding position");
  return config;
}

}  // namespace trib::models
