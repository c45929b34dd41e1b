// Features of pictures from folders and tables, through the network that ships with the source.
#include "tests/models/image_writer.h"
#include "tests/tasks/features_fixture.h"

namespace trib::tasks::features {
namespace {

const fs::path models_directory = fs::path(TRIBUTARY_SOURCE_DIR) / "base";

class ImageFeatures : public testing::Test {
 protected:
  ImageFeatures() : directory_(fresh_directory("image_features_test")) {
    picture("red/1.png", {250, 10, 10});
    picture("red/2.png", {200, 30, 20});
    picture("blue/1.png", {10, 10, 250});
    write_file_durably(directory_ / "some.tsv", "path\tlabel\nred/2.png\tred\nblue/1.png\tblue\n").value();
  }
  void picture(const std::string& name, std::vector<std::uint8_t> color) {
    fs::create_directories((directory_ / name).parent_path());
    std::vector<std::uint8_t> rows;
    for (int i = 0; i < 12 * 10; ++i) rows.insert(rows.end(), color.begin(), color.end());
    write_file_durably(directory_ / name, models::png_bytes({.width = 12, .height = 10, .rows = rows})).value();
  }
  std::shared_ptr<FeatureExtractor> open(const std::string& keys = "image_size = 41\n") {
    const FeaturesConfig config = config_of("[features]\nbackbone = \"squeezenet-1.0\"\n" + keys);
    const BaseModel backbone = find_base_model(config.backbone, {}, {models_directory}, shared_).value();
    EXPECT_EQ(item_kind(backbone).value(), ItemKind::image);
    return open_extractor(backbone, config, kernels::cpu_device(), shared_).value();
  }
  std::vector<Item> items(const fs::path& path) {
    return items_of(read_items(path, ItemKind::image, {.text_column = "path", .label_column = "label"}).value(),
                    ItemKind::image);
  }
  SharedResources shared_;
  RisingProgress progress_;
  fs::path directory_;
};

TEST_F(ImageFeatures, OfAFolderAndOfATableAreTheSame) {
  const auto extractor = open();
  const HostTensor all = extract_features(*extractor, nullptr, items(directory_), progress_).value();
  ASSERT_EQ(all.shape(), (Shape{3, 512}));  // blue/1, red/1, red/2
  RisingProgress quiet;
  const HostTensor some = extract_features(*extractor, nullptr, items(directory_ / "some.tsv"), quiet).value();
  const auto row = [](const HostTensor& of, std::size_t i) { return of.as<float>().subspan(i * 512, 512); };
  for (std::size_t j = 0; j < 512; ++j) {
    EXPECT_NEAR(row(some, 0)[j], row(all, 2)[j], 1e-4);
    EXPECT_NEAR(row(some, 1)[j], row(all, 0)[j], 1e-4);
  }
  EXPECT_FALSE(std::ranges::equal(row(all, 0), row(all, 1)));
}

TEST_F(ImageFeatures, AreCachedByContentWhateverTheFileIsCalled) {
  const auto extractor = open();
  const auto cache = FeatureCache::open(directory_ / "cache", *extractor).value();
  fs::remove_all(directory_ / "other");
  fs::create_directories(directory_ / "other");
  fs::copy_file(directory_ / "red/1.png", directory_ / "other/same.png");
  extract_features(
      *extractor, cache.get(),
      items_of(
          read_items(directory_ / "some.tsv", ItemKind::image, {.text_column = "path", .label_column = ""}).value(),
          ItemKind::image),
      progress_)
      .value();
  EXPECT_EQ(cache->size(), std::size_t{2});
  RisingProgress quiet;
  std::vector<Item> same = {{.name = "a", .text = {}, .image = directory_ / "red/1.png"},
                            {.name = "b", .text = {}, .image = directory_ / "other/same.png"}};
  extract_features(*extractor, cache.get(), same, quiet).value();
  EXPECT_EQ(cache->size(), std::size_t{3});
}

TEST_F(ImageFeatures, HaveAnIdentityThatChangesWithWhatIsDoneToPictures) {
  EXPECT_NE(open()->identity(), open("image_size = 43\n")->identity());
  EXPECT_NE(open()->identity(), open("image_size = 41\nprecision = \"tf32\"\n")->identity());
  EXPECT_EQ(open("image_size = 227\n")->identity(), open("")->identity()) << "the backbone's own size";
  EXPECT_EQ(open("image_size = 41\nmax_tokens = 9\n")->identity(), open()->identity()) << "of texts alone";
}

TEST_F(ImageFeatures, NameThePictureOrTheKeyThatIsWrong) {
  write_file_durably(directory_ / "red/3.png", "not a picture").value();
  const Error broken = extract_features(*open(), nullptr, items(directory_), progress_).error();
  EXPECT_EQ(broken.code, Errc::unsupported);
  EXPECT_THAT(broken.message, HasSubstr("red/3.png"));

  const auto refuse = [&](const std::string& keys) {
    const FeaturesConfig config = config_of("[features]\nbackbone = \"squeezenet-1.0\"\n" + keys);
    const BaseModel backbone = find_base_model(config.backbone, {}, {models_directory}, shared_).value();
    const auto opened = open_extractor(backbone, config, kernels::cpu_device(), shared_);
    EXPECT_FALSE(opened.ok()) << keys;
    return opened ? Error{} : opened.error();
  };
  EXPECT_THAT(refuse("precision = \"bf16\"\n").message, HasSubstr("features.precision"));
  EXPECT_THAT(refuse("image_size = 20\n").message, HasSubstr("features.image_size is 20"));
}

}  // namespace
}  // namespace trib::tasks::features
