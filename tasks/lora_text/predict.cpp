#include "tasks/lora_text/predict.h"

#include <spdlog/fmt/fmt.h>

#include <boost/json/object.hpp>
#include <boost/json/string.hpp>

#include "models/json_file.h"
#include "models/peft_adapter.h"
#include "models/tokenizer.h"
#include "tasks/lora_text/records.h"

namespace trib::tasks::lora_text {
namespace {

std::vector<std::string> numbered_labels(std::int64_t count) {
  std::vector<std::string> labels;
  for (std::int64_t i = 0; i < count; ++i) labels.push_back(fmt::format("LABEL_{}", i));
  return labels;
}

// id2label of config.json; Hugging Face's default, LABEL_0 and LABEL_1, where it has none.
Result<std::vector<std::string>> base_labels(const std::filesystem::path& base) {
  const std::filesystem::path path = base / "config.json";
  TRIB_ASSIGN(const boost::json::object config, models::read_json_object(path));
  if (!config.contains("id2label")) return numbered_labels(2);
  TRIB_ASSIGN(const boost::json::object* names, models::object_at(config, "id2label", path));
  std::vector<std::string> labels;
  for (std::size_t i = 0; i < names->size(); ++i) {
    const boost::json::value* name = names->if_contains(std::to_string(i));
    if (name == nullptr || !name->is_string()) {
      return models::corrupt_file(path, fmt::format("id2label has no text for \"{}\"", i));
    }
    labels.emplace_back(name->as_string());
  }
  return labels;
}

struct Model {
  std::unique_ptr<models::TextClassifier> classifier;
  std::vector<std::string> labels;
};

Result<Model> load_model(const PredictRequest& request) {
  models::ClassifierConfig config;
  config.max_tokens = request.max_tokens;
  Model model;
  if (request.adapter.empty()) {
    TRIB_ASSIGN(model.labels, base_labels(request.base));
    config.label_count = static_cast<std::int64_t>(model.labels.size());
    TRIB_ASSIGN(model.classifier, models::TextClassifier::load(*request.device, request.base, config));
    return model;
  }

  TRIB_ASSIGN(const models::PeftAdapter adapter, models::read_peft_adapter(request.adapter));
  TRIB_ASSIGN(const HostTensor* bias, adapter.state.find("classifier.out_proj.bias"));
  config.adapter = adapter.config;
  config.label_count = bias->element_count();
  auto labels = models::read_adapter_labels(request.adapter);
  if (!labels && labels.error().code != Errc::not_found) return labels.error();
  model.labels = labels ? *std::move(labels) : numbered_labels(config.label_count);  // an adapter from elsewhere
  if (static_cast<std::int64_t>(model.labels.size()) != config.label_count) {
    return Error{Errc::corrupt, fmt::format("{} names {} labels, but its classification head has {}",
                                            request.adapter.native(), model.labels.size(), config.label_count)};
  }
  TRIB_ASSIGN(model.classifier, models::TextClassifier::load(*request.device, request.base, config));
  TRIB_TRY(model.classifier->set_state(adapter.state));
  return model;
}

}  // namespace

Result<Predictions> predict_text(const PredictRequest& request, Progress& progress) {
  TRIB_ASSIGN(Model model, load_model(request));
  TRIB_ASSIGN(const models::Tokenizer tokenizer, models::Tokenizer::load(request.base));
  const TableFormat format{
      .format = request.format, .text_column = request.text_column, .label_column = request.label_column};
  TRIB_ASSIGN(const data::TextTable table, read_table(request.data, format));
  const bool labelled = !request.label_column.empty();
  const std::vector<std::string> accepted = labelled ? model.labels : std::vector<std::string>{};
  TRIB_ASSIGN(const std::vector<models::TokenizedText> records,
              tokenize(table, accepted, tokenizer, request.max_tokens));

  Predictions predictions;
  TRIB_ASSIGN(predictions.logits, compute_logits(*model.classifier, records, progress));
  predictions.predicted = predict_classes(predictions.logits);
  predictions.labels = std::move(model.labels);
  if (labelled) {
    for (const models::TokenizedText& record : records) predictions.expected.push_back(record.label);
    const Score result = score(predictions.logits, predictions.expected);
    predictions.metrics = {{"accuracy", result.accuracy}, {"loss", result.loss}};
  }
  return predictions;
}

}  // namespace trib::tasks::lora_text
