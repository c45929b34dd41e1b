#include "models/peft_adapter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <boost/json.hpp>
#include <cstring>
#include <fstream>
#include <functional>

#include "common/files.h"
#include "common/safetensors.h"

namespace trib::models {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::SizeIs;

// What PEFT 0.21 wrote: rank 4, alpha 8, query and value of three layers, three labels.
const fs::path golden_adapter = fs::path(TRIBUTARY_SOURCE_DIR) / "tests/golden/roberta-tiny/adapter";

class PeftAdapters : public testing::Test {
 protected:
  PeftAdapters() {
    std::string name = (fs::temp_directory_path() / "peft-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) throw std::runtime_error("cannot create " + name);
    directory_ = name;
    config_.label_count = 3;
    config_.adapter.rank = 4;
    config_.adapter.alpha = 8.0;
  }
  ~PeftAdapters() override { fs::remove_all(directory_); }

  Status write(const TensorMap& state) const { return write_peft_adapter(directory_, state, config_, labels_, "tiny"); }
  std::string write_error(const TensorMap& state) const {
    const Status status = write(state);
    return status.ok() ? "written" : status.error().message;
  }

  // Why the golden adapter does not read with `change` made to its config or tensors.
  std::string read_error(const std::function<void(json::object&, TensorMap&)>& change) const {
    json::object config = json::parse(read_file(golden_adapter / "adapter_config.json").value()).as_object();
    TensorMap tensors = read_safetensors(golden_adapter / "adapter_model.safetensors").value().tensors;
    change(config, tensors);
    std::ofstream(directory_ / "adapter_config.json") << json::serialize(config);
    write_safetensors(directory_ / "adapter_model.safetensors", tensors).value();
    const Result<PeftAdapter> result = read_peft_adapter(directory_);
    return result.ok() ? "read" : result.error().message;
  }

  fs::path directory_;
  ClassifierConfig config_;
  std::vector<std::string> labels_ = {"no", "yes", "caf\xC3\xA9 \"quoted\""};
};

const std::string query_b = "roberta.encoder.layer.1.attention.self.query.lora_B";

TEST_F(PeftAdapters, AreReadAsPeftWroteThem) {
  const PeftAdapter adapter = read_peft_adapter(golden_adapter).value();
  EXPECT_EQ(adapter.config.rank, 4);
  EXPECT_EQ(adapter.config.alpha, 8.0);
  EXPECT_EQ(adapter.config.blocks, 1);
  EXPECT_THAT(adapter.config.targets, ElementsAre("query", "value"));
  EXPECT_THAT(adapter.state, SizeIs(3 * 2 * 2 + 4));
  EXPECT_THAT(adapter.state.at(query_b).shape(), ElementsAre(64, 4));
  EXPECT_THAT(adapter.state.at("roberta.encoder.layer.2.attention.self.value.lora_A").shape(), ElementsAre(4, 64));
  EXPECT_THAT(adapter.state.at("classifier.out_proj.bias").shape(), ElementsAre(3));
}

TEST_F(PeftAdapters, AreWrittenAsPeftWritesThem) {
  const PeftAdapter adapter = read_peft_adapter(golden_adapter).value();
  write(adapter.state).value();

  const SafetensorsFile written = read_safetensors(directory_ / "adapter_model.safetensors").value();
  const SafetensorsFile expected = read_safetensors(golden_adapter / "adapter_model.safetensors").value();
  EXPECT_EQ(written.tensors.schema(), expected.tensors.schema());
  EXPECT_EQ(written.tensors, expected.tensors);
  EXPECT_EQ(written.metadata, expected.metadata);

  const json::object config = json::parse(read_file(directory_ / "adapter_config.json").value()).as_object();
  json::object golden = json::parse(read_file(golden_adapter / "adapter_config.json").value()).as_object();
  golden["base_model_name_or_path"] = "tiny";
  golden["modules_to_save"] = {"classifier"};  // PEFT adds "score", which RoBERTa does not have
  for (const auto& [key, value] : config) {
    ASSERT_TRUE(golden.contains(key)) << key;
    EXPECT_EQ(value, golden.at(key)) << key;
  }
  for (const char* key : {"peft_type", "task_type", "r", "lora_alpha", "target_modules", "modules_to_save", "bias"}) {
    EXPECT_TRUE(config.contains(key)) << key;
  }
}

TEST_F(PeftAdapters, KeepEverythingThroughWritingAndReading) {
  const PeftAdapter golden = read_peft_adapter(golden_adapter).value();
  config_.adapter.alpha = 0.1;
  config_.adapter.targets = {"value", "query", "attention.output.dense"};
  write(golden.state).value();
  const PeftAdapter adapter = read_peft_adapter(directory_).value();
  EXPECT_EQ(adapter.state, golden.state);
  EXPECT_EQ(adapter.config.rank, 4);
  EXPECT_EQ(adapter.config.alpha, 0.1);
  EXPECT_EQ(adapter.config.targets, config_.adapter.targets);
  EXPECT_EQ(read_adapter_labels(directory_).value(), labels_);
}

TEST_F(PeftAdapters, OfSeveralBlocksAreWrittenAsTheirSum) {
  config_.adapter.blocks = 4;  // the state holds the sum already
  const PeftAdapter golden = read_peft_adapter(golden_adapter).value();
  write(golden.state).value();
  const PeftAdapter adapter = read_peft_adapter(directory_).value();
  EXPECT_EQ(adapter.config.rank, 4);
  EXPECT_EQ(adapter.config.blocks, 1);
  EXPECT_EQ(adapter.state, golden.state);
}

TEST_F(PeftAdapters, InHalfPrecisionAreReadAsFloats) {
  const PeftAdapter golden = read_peft_adapter(golden_adapter).value();
  const std::string name = "base_model.model.classifier.out_proj.bias";
  EXPECT_EQ(read_error([&](json::object&, TensorMap& tensors) {
              HostTensor half(DType::f16, {3});
              const std::uint16_t bits[] = {0x3C00, 0xC000, 0x3555};  // 1, -2, 1/3
              std::memcpy(half.bytes().data(), bits, sizeof bits);
              tensors[name] = half;
            }),
            "read");
  const PeftAdapter adapter = read_peft_adapter(directory_).value();
  EXPECT_THAT(adapter.state.at("classifier.out_proj.bias").as<float>(),
              ElementsAre(1.0f, -2.0f, testing::FloatNear(1.0f / 3.0f, 1e-4f)));
}

TEST_F(PeftAdapters, AreNotWrittenFromAStateThatDoesNotFit) {
  const TensorMap golden = read_peft_adapter(golden_adapter).value().state;
  TensorMap state = golden;
  state.erase(query_b);
  EXPECT_THAT(write_error(state), HasSubstr("query.lora_A\" has no partner \"" + query_b + "\""));

  state = golden;
  state[query_b] = HostTensor(DType::f32, {64, 5});
  EXPECT_THAT(write_error(state), HasSubstr("\"" + query_b + "\" has shape [64, 5], which is not of rank 4"));

  state = golden;
  state[query_b] = HostTensor(DType::f64, {64, 4});
  EXPECT_THAT(write_error(state), HasSubstr("\"" + query_b + "\" is F64, not F32"));

  state = golden;
  state["roberta.pooler.weight"] = HostTensor(DType::f32, {1});
  EXPECT_THAT(write_error(state), HasSubstr("\"roberta.pooler.weight\" belongs neither"));

  config_.adapter.targets = {"value"};
  EXPECT_THAT(write_error(golden), HasSubstr("is of a layer that the targets do not name: value"));

  config_.adapter.targets = {"query", "value"};
  labels_.pop_back();
  EXPECT_THAT(write_error(golden), HasSubstr("2 labels for a classifier of 3"));

  state = golden;
  state.erase("classifier.out_proj.weight");
  EXPECT_THAT(write_error(state), HasSubstr("classifier.out_proj.weight"));
  EXPECT_FALSE(fs::exists(directory_ / "adapter_model.safetensors"));
}

TEST_F(PeftAdapters, OfOtherKindsAreRefusedByKey) {
  const std::pair<const char*, json::value> changes[] = {
      {"peft_type", "LOHA"},          {"task_type", "CAUSAL_LM"}, {"bias", "all"},
      {"use_rslora", true},           {"use_dora", true},         {"rank_pattern", {{"query", 8}}},
      {"alpha_pattern", {{"q", 16}}}, {"fan_in_fan_out", true},   {"target_modules", "all-linear"}};
  for (const auto& [key, value] : changes) {
    const std::string message = read_error([&](json::object& config, TensorMap&) { config[key] = value; });
    EXPECT_THAT(message, HasSubstr("adapter_config.json: \"" + std::string(key) + "\" is"));
  }
}

TEST_F(PeftAdapters, WithBrokenFilesAreRefusedByFileAndKey) {
  const auto with_key = [&](const char* key, const json::value& value) {
    return read_error([&](json::object& config, TensorMap&) { config[key] = value; });
  };
  EXPECT_THAT(with_key("r", 0), HasSubstr("adapter_config.json: \"r\" must be"));
  EXPECT_THAT(with_key("r", 4.5), HasSubstr("adapter_config.json: \"r\" must be"));
  EXPECT_THAT(with_key("lora_alpha", "8"), HasSubstr("adapter_config.json: \"lora_alpha\" must be"));
  EXPECT_THAT(with_key("target_modules", nullptr), HasSubstr("adapter_config.json: \"target_modules\" must be"));
  EXPECT_THAT(with_key("target_modules", {1}), HasSubstr("adapter_config.json: \"target_modules\" must be"));
  EXPECT_THAT(with_key("r", 8), HasSubstr("adapter_model.safetensors: tensor"));

  EXPECT_THAT(read_error([](json::object&, TensorMap& tensors) { tensors["loose"] = HostTensor(DType::f32, {1}); }),
              HasSubstr("adapter_model.safetensors: tensor \"loose\" must start with"));
  EXPECT_THAT(
      read_error([](json::object&, TensorMap& tensors) { tensors.erase("base_model.model." + query_b + ".weight"); }),
      HasSubstr("has no partner \"" + query_b + "\""));
  EXPECT_THAT(read_error([](json::object&, TensorMap& tensors) {
                tensors["base_model.model.classifier.out_proj.bias"] = HostTensor(DType::i64, {3});
              }),
              HasSubstr("tensor \"base_model.model.classifier.out_proj.bias\""));
}

TEST_F(PeftAdapters, ThatAreNotThereAreNamed) {
  EXPECT_THAT(read_peft_adapter(directory_).error().message, HasSubstr("adapter_config.json"));
  fs::copy(golden_adapter / "adapter_config.json", directory_ / "adapter_config.json");
  EXPECT_THAT(read_peft_adapter(directory_).error().message, HasSubstr("adapter_model.safetensors"));
  EXPECT_THAT(read_adapter_labels(directory_).error().message, HasSubstr("labels.json"));
}

TEST_F(PeftAdapters, HaveLabelsThatAreDistinctStrings) {
  const auto label_error = [&](const char* text) {
    std::ofstream(directory_ / "labels.json") << text;
    return read_adapter_labels(directory_).error().message;
  };
  EXPECT_THAT(label_error("[\"a\", \"b\", \"a\"]"), HasSubstr("labels.json: names a label twice"));
  EXPECT_THAT(label_error("[\"a\", 1]"), HasSubstr("labels.json: it must be a list of strings"));
  EXPECT_THAT(label_error("{}"), HasSubstr("labels.json: it must be a list of strings"));
  EXPECT_THAT(label_error("[\"a\""), HasSubstr("labels.json: not JSON"));
}

}  // namespace
}  // namespace trib::models
