// Sentence features of the base model that ships with the source, and the [features] section.
#include "tests/tasks/features_fixture.h"

namespace trib::tasks::features {
namespace {

const fs::path models_directory = fs::path(TRIBUTARY_SOURCE_DIR) / "base";

class TextFeatures : public testing::Test {
 protected:
  std::shared_ptr<FeatureExtractor> open(const std::string& keys = "") {
    const FeaturesConfig config = config_of("[features]\nbackbone = \"roberta-mini-imdb\"\n" + keys);
    const BaseModel backbone = find_base_model(config.backbone, {}, {models_directory}, shared_).value();
    return open_extractor(backbone, config, kernels::cpu_device(), shared_).value();
  }
  static std::vector<Item> items(const std::vector<std::string>& texts) {
    std::vector<Item> result;
    for (const std::string& text : texts)
      result.push_back({.name = std::to_string(result.size() + 1) + ". text", .text = text, .image = {}});
    return result;
  }
  SharedResources shared_;
  RisingProgress progress_;
};

const std::vector<std::string> texts = {"please tell me my account balance",
                                        "what is the balance of my bank account",
                                        "a wonderful film , moving and warm",
                                        "",
                                        "x",
                                        "my card was declined in a shop yesterday and i do not know why it was"};

double cosine(std::span<const float> a, std::span<const float> b) {
  double product = 0, of_a = 0, of_b = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    product += double{a[i]} * b[i];
    of_a += double{a[i]} * a[i];
    of_b += double{b[i]} * b[i];
  }
  return product / std::sqrt(of_a * of_b);
}

TEST_F(TextFeatures, LieCloserForTextsOfOneMeaning) {
  const auto extractor = open();
  EXPECT_EQ(extractor->kind(), ItemKind::text);
  EXPECT_EQ(extractor->width(), 256);
  const HostTensor features = extractor->extract(items(texts), progress_).value();
  EXPECT_EQ(features.shape(), (Shape{6, 256}));
  EXPECT_TRUE(features.all_finite());
  EXPECT_EQ(progress_.last, 1.0);
  const auto row = [&](std::size_t i) { return features.as<float>().subspan(i * 256, 256); };
  EXPECT_GT(cosine(row(0), row(1)), cosine(row(0), row(2)) + 0.1);
}

TEST_F(TextFeatures, OfATextDoNotDependOnTheTextsBesideIt) {
  const auto extractor = open();
  const std::vector<Item> all = items(texts);
  const HostTensor together = extractor->extract(all, progress_).value();
  for (std::size_t i = 0; i < all.size(); ++i) {
    RisingProgress quiet;
    const HostTensor alone = extractor->extract(std::span(all).subspan(i, 1), quiet).value();
    for (std::size_t j = 0; j < 256; ++j)
      ASSERT_NEAR(alone.as<float>()[j], together.as<float>()[i * 256 + j], 1e-5) << texts[i];
  }
}

TEST_F(TextFeatures, HaveAnIdentityThatChangesWithEverythingThatChangesThem) {
  std::set<std::string> identities;
  for (const char* keys : {"", "max_tokens = 32", "precision = \"bf16\"", "precision = \"bf16\"\nbase_bits = 8",
                           "precision = \"bf16\"\nbase_bits = 4", "precision = \"fp8\""}) {
    const std::string identity = open(keys)->identity();
    EXPECT_EQ(identity.size(), std::size_t{64});
    EXPECT_EQ(identity, open(keys)->identity());
    identities.insert(identity);
  }
  EXPECT_EQ(identities.size(), std::size_t{6});
  EXPECT_EQ(open(), open()) << "one process loads a backbone once";
  EXPECT_EQ(open("cache = false"), open());
}

TEST_F(TextFeatures, CanBeCancelled) {
  progress_.is_cancelled = true;
  EXPECT_EQ(open()->extract(items(texts), progress_).error().code, Errc::cancelled);
  EXPECT_EQ(extract_features(*open(), nullptr, items(texts), progress_).error().code, Errc::cancelled);
}

TEST_F(TextFeatures, AreMadeOnceForEqualTextsAndThenComeFromTheCache) {
  const fs::path directory = fresh_directory("text_features_test");
  const auto extractor = open();
  const std::vector<Item> some = items({texts[0], texts[1], texts[0], texts[2]});
  HostTensor first;
  {
    const auto cache = FeatureCache::open(directory, *extractor).value();
    first = extract_features(*extractor, cache.get(), some, progress_).value();
    EXPECT_EQ(cache->size(), std::size_t{3});
    const auto row = [&](std::size_t i) { return first.as<float>().subspan(i * 256, 256); };
    EXPECT_TRUE(std::ranges::equal(row(0), row(2)));
  }
  const auto cache = FeatureCache::open(directory, *extractor).value();
  EXPECT_EQ(cache->size(), std::size_t{3});
  RisingProgress again;
  EXPECT_EQ(extract_features(*extractor, cache.get(), some, again).value(), first);
  EXPECT_EQ(cache->size(), std::size_t{3});
  // Nothing of a text is in the file.
  const std::string bytes = read_file(FeatureCache::file_of(directory, *extractor)).value();
  EXPECT_EQ(bytes.find("balance"), std::string::npos);
}

Error section_error(const std::string& keys) {
  ConfigReader reader = ConfigReader::from_text("[features]\n" + keys, "job.toml").value();
  read_features_config(reader);
  const Status status = reader.finish();
  EXPECT_FALSE(status.ok()) << keys;
  return status ? Error{} : status.error();
}

TEST(FeaturesSection, NamesTheKeyAndWhatItTakes) {
  EXPECT_THAT(section_error("max_tokens = 8").message, HasSubstr("features.backbone"));
  const std::string base = "backbone = \"roberta-mini-imdb\"\n";
  EXPECT_THAT(section_error("backbone = \"a/\"").message, HasSubstr("directory"));
  EXPECT_THAT(section_error(base + "backbone_sha256 = \"12\"").message, HasSubstr("64 hexadecimal digits"));
  EXPECT_THAT(section_error(base + "precision = \"fp64\"").message, HasSubstr("bf16"));
  EXPECT_THAT(section_error(base + "base_bits = 5\nprecision = \"bf16\"").message, HasSubstr("16, 8 or 4"));
  EXPECT_THAT(section_error(base + "base_bits = 8").message, HasSubstr("features.precision = \"bf16\""));
  EXPECT_THAT(section_error(base + "max_tokens = 2").message, HasSubstr("features.max_tokens"));
  EXPECT_THAT(section_error(base + "image_size = -1").message, HasSubstr("features.image_size"));
  EXPECT_THAT(section_error(base + "batch = 2").message, HasSubstr("features.batch"));
}

TEST_F(TextFeatures, RefuseABackboneThatDoesNotFit) {
  const FeaturesConfig config = config_of("[features]\nbackbone = \"roberta-mini-imdb\"\nmax_tokens = 400\n");
  const BaseModel backbone = find_base_model(config.backbone, {}, {models_directory}, shared_).value();
  const Error too_long = open_extractor(backbone, config, kernels::cpu_device(), shared_).error();
  EXPECT_EQ(too_long.code, Errc::invalid_argument);
  EXPECT_THAT(too_long.message, HasSubstr("features.max_tokens is 400"));

  const fs::path directory = fresh_directory("other_backbone");
  write_file_durably(directory / "config.json", R"({"model_type": "gpt2"})").value();
  const Error other = item_kind({directory, {}}).error();
  EXPECT_EQ(other.code, Errc::unsupported);
  EXPECT_THAT(other.message, HasSubstr("\"gpt2\""));
  EXPECT_THAT(other.message, HasSubstr("\"roberta\""));
}

}  // namespace
}  // namespace trib::tasks::features
