// Pictures: decoding, Pillow's resize, normalization.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

#include "models/image_processor.h"
#include "tests/models/image_writer.h"

namespace trib::models {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::ElementsAreArray;
using testing::HasSubstr;

const std::vector<std::uint8_t> six = {255, 0, 0, 0, 255, 0, 0, 0, 255, 10, 20, 30, 255, 255, 255, 1, 2, 3};

TEST(Png, GivesItsPixels) {
  for (const bool interlaced : {false, true}) {
    const Image image = decode(png_bytes({.width = 3, .height = 2, .rows = six, .interlaced = interlaced})).value();
    EXPECT_EQ(image.width, 3);
    EXPECT_EQ(image.height, 2);
    EXPECT_THAT(image.rgb, ElementsAreArray(six));
  }
}

TEST(Png, OfOtherKindsBecomesRgb) {
  const Image gray =
      decode(png_bytes({.width = 2, .height = 1, .color = PNG_COLOR_TYPE_GRAY, .rows = {7, 200}})).value();
  EXPECT_THAT(gray.rgb, ElementsAre(7, 7, 7, 200, 200, 200));
  const Image bits =
      decode(png_bytes({.width = 3, .height = 1, .bits = 1, .color = PNG_COLOR_TYPE_GRAY, .rows = {0xa0}})).value();
  EXPECT_THAT(bits.rgb, ElementsAre(255, 255, 255, 0, 0, 0, 255, 255, 255));
  const Image deep =
      decode(png_bytes({.width = 1, .height = 1, .bits = 16, .rows = {0x12, 0xff, 0x80, 0x00, 0xff, 0xfe}})).value();
  EXPECT_THAT(deep.rgb, ElementsAre(0x12, 0x80, 0xff));
  const Image alpha =
      decode(png_bytes({.width = 2, .height = 1, .color = PNG_COLOR_TYPE_RGBA, .rows = {1, 2, 3, 0, 4, 5, 6, 128}}))
          .value();
  EXPECT_THAT(alpha.rgb, ElementsAre(1, 2, 3, 4, 5, 6));
  const Image gray_alpha =
      decode(png_bytes({.width = 1, .height = 1, .color = PNG_COLOR_TYPE_GRAY_ALPHA, .rows = {9, 40}})).value();
  EXPECT_THAT(gray_alpha.rgb, ElementsAre(9, 9, 9));
  const Image palette = decode(png_bytes({.width = 3,
                                          .height = 1,
                                          .bits = 4,
                                          .color = PNG_COLOR_TYPE_PALETTE,
                                          .rows = {0x12, 0x00},
                                          .palette = {{1, 2, 3}, {4, 5, 6}, {7, 8, 9}},
                                          .palette_alpha = {0, 128}}))
                            .value();
  EXPECT_THAT(palette.rgb, ElementsAre(4, 5, 6, 7, 8, 9, 1, 2, 3));
}

// One colour throughout: what the format loses is less than two steps.
void expect_color(const Image& image, int red, int green, int blue) {
  for (std::size_t i = 0; i < image.rgb.size(); i += 3) {
    EXPECT_NEAR(image.rgb[i], red, 2);
    EXPECT_NEAR(image.rgb[i + 1], green, 2);
    EXPECT_NEAR(image.rgb[i + 2], blue, 2);
  }
}
std::vector<std::uint8_t> fill(int pixels, const std::vector<std::uint8_t>& pixel) {
  std::vector<std::uint8_t> result;
  for (int i = 0; i < pixels; ++i) result.insert(result.end(), pixel.begin(), pixel.end());
  return result;
}

TEST(Jpeg, OfEachColorSpaceBecomesRgb) {
  const Image color = decode(jpeg_bytes(17, 9, JCS_RGB, fill(17 * 9, {200, 100, 50}))).value();
  EXPECT_EQ(color.width, 17);
  EXPECT_EQ(color.height, 9);
  EXPECT_EQ(color.rgb.size(), std::size_t{17 * 9 * 3});
  expect_color(color, 200, 100, 50);
  expect_color(decode(jpeg_bytes(8, 8, JCS_GRAYSCALE, fill(64, {77}))).value(), 77, 77, 77);
  // 255 − ink, as Adobe stores it: no ink at all is white; half of black is gray; all cyan is green and blue.
  expect_color(decode(jpeg_bytes(8, 8, JCS_CMYK, fill(64, {255, 255, 255, 255}))).value(), 255, 255, 255);
  expect_color(decode(jpeg_bytes(8, 8, JCS_CMYK, fill(64, {255, 255, 255, 128}))).value(), 128, 128, 128);
  expect_color(decode(jpeg_bytes(8, 8, JCS_CMYK, fill(64, {0, 255, 255, 255}))).value(), 0, 255, 255);
}

std::vector<std::uint8_t> noise(int count) {
  std::vector<std::uint8_t> values;
  std::uint32_t state = 1;
  for (int i = 0; i < count; ++i)
    values.push_back(static_cast<std::uint8_t>((state = state * 1664525u + 1013904223u) >> 24));
  return values;
}

TEST(ImageFile, ThatIsCutShortAnywhereIsRefused) {
  for (const std::string& whole :
       {png_bytes({.width = 20, .height = 20, .rows = noise(1200)}), jpeg_bytes(20, 20, JCS_RGB, noise(1200))}) {
    ASSERT_TRUE(decode(whole).ok());
    for (std::size_t length = 0; length + 2 < whole.size(); length += 1 + length / 16) {
      const Result<Image> image = decode(whole.substr(0, length));
      ASSERT_FALSE(image.ok()) << length << " of " << whole.size();
      EXPECT_EQ(image.error().code,
                length < 8 && length < (whole[0] == '\xff' ? 3u : 8u) ? Errc::unsupported : Errc::corrupt)
          << length << ": " << image.error().message;
      EXPECT_THAT(image.error().message, HasSubstr("picture"));
    }
  }
}

TEST(ImageFile, ThatIsDamagedIsRefused) {
  std::string png = png_bytes({.width = 20, .height = 20, .rows = noise(1200)});
  png[png.size() / 2] ^= 1;
  EXPECT_EQ(decode(png).error().code, Errc::corrupt);
}

// Whatever a file holds, there is a picture or an error, and memory stays whole (the sanitizers look).
TEST(ImageFile, OfRandomDamageGivesAPictureOrAnError) {
  const std::string wholes[] = {png_bytes({.width = 20, .height = 20, .rows = noise(1200), .interlaced = true}),
                                jpeg_bytes(20, 20, JCS_RGB, noise(1200)), jpeg_bytes(20, 20, JCS_CMYK, noise(1600))};
  std::uint32_t state = 7;
  const auto next = [&] { return (state = state * 1664525u + 1013904223u) >> 8; };
  for (int i = 0; i < 3000; ++i) {
    std::string bytes = wholes[i % 3];
    for (std::uint32_t changes = 1 + next() % 4; changes > 0; --changes)
      bytes[next() % bytes.size()] = static_cast<char>(next());
    const Result<Image> image = decode(bytes);
    if (!image) continue;
    EXPECT_EQ(image->rgb.size(), static_cast<std::size_t>(image->width * image->height * 3));
  }
}

TEST(ImageFile, OfAnotherKindIsRefused) {
  const Error error = decode("GIF89a and so on").error();
  EXPECT_EQ(error.code, Errc::unsupported);
  EXPECT_THAT(error.message, HasSubstr("neither a JPEG nor a PNG file"));
  EXPECT_THAT(decode("").error().message, HasSubstr("empty"));
  EXPECT_EQ(read_image("/nowhere/at/all.png").error().code, Errc::not_found);
}

// Headers that promise more than anyone has: nothing is allocated for them.
TEST(ImageFile, OfHugeDimensionsIsRefused) {
  std::string jpeg = jpeg_bytes(20, 20, JCS_RGB, noise(1200));
  const std::size_t frame = jpeg.find("\xff\xc0");
  ASSERT_NE(frame, std::string::npos);
  jpeg[frame + 5] = jpeg[frame + 6] = jpeg[frame + 7] = jpeg[frame + 8] = '\xf0';
  const Error of_jpeg = decode(jpeg).error();
  EXPECT_EQ(of_jpeg.code, Errc::limit_exceeded) << of_jpeg.message;
  EXPECT_THAT(of_jpeg.message, HasSubstr("61680×61680"));

  const std::string wide = png_bytes({.width = 16385, .height = 1, .color = PNG_COLOR_TYPE_GRAY, .rows = noise(16385)});
  const Error of_png = decode(wide).error();
  EXPECT_EQ(of_png.code, Errc::limit_exceeded) << of_png.message;
  EXPECT_THAT(of_png.message, HasSubstr("16385×1"));
}

Image line(const std::vector<std::uint8_t>& values) {
  Image image{static_cast<std::int64_t>(values.size()), 1, {}};
  for (const std::uint8_t value : values) image.rgb.insert(image.rgb.end(), {value, value, 0});
  return image;
}
std::vector<int> reds(const Image& image) {
  std::vector<int> values;
  for (std::size_t i = 0; i < image.rgb.size(); i += 3) values.push_back(image.rgb[i]);
  return values;
}

// Worked by hand from the filters' definition: a triangle that is two source pixels wide on either side where two
// become one, weights normalized; (0·3/4 + 100·3/4 + 200·1/4) / (7/4) = 71.4.
TEST(Resize, IsWhatTheFiltersDefine) {
  EXPECT_THAT(reds(resize(line({0, 100, 200, 255}), 2, 1, Resampling::bilinear)), ElementsAre(71, 209));
  EXPECT_THAT(reds(resize(line({0, 100}), 4, 1, Resampling::bilinear)), ElementsAre(0, 25, 75, 100));
  EXPECT_THAT(reds(resize(line({0, 100, 200, 255}), 2, 1, Resampling::bicubic)), ElementsAre(60, 221));
  EXPECT_THAT(reds(resize(line({3, 200, 7}), 3, 1, Resampling::bicubic)), ElementsAre(3, 200, 7));
  // Overshoot is cut off at 0 and 255.
  const std::vector<int> edge = reds(resize(line({0, 0, 0, 255, 255, 255}), 12, 1, Resampling::bicubic));
  EXPECT_EQ(*std::ranges::min_element(edge), 0);
  EXPECT_EQ(*std::ranges::max_element(edge), 255);
}

TEST(Resize, TreatsColumnsAsRows) {
  Image image{4, 4, {}};
  for (int y = 0; y < 4; ++y)
    for (int x = 0; x < 4; ++x) image.rgb.insert(image.rgb.end(), {static_cast<std::uint8_t>(60 * y), 0, 9});
  const Image smaller = resize(image, 2, 2, Resampling::bilinear);
  // (0·3/4 + 60·3/4 + 120·1/4) / (7/4) = 42.9
  EXPECT_THAT(reds(smaller), ElementsAre(43, 43, 137, 137));
  EXPECT_EQ(smaller.rgb[2], 9);
}

class Processor : public testing::Test {
 protected:
  Processor() : directory_(fs::path(testing::TempDir()) / "image_processor_test") {
    fs::remove_all(directory_);
    fs::create_directories(directory_);
  }
  Result<ImageProcessor> read(const std::string& json) {
    write_file_durably(directory_ / "preprocessor_config.json", json).value();
    return ImageProcessor::read(directory_);
  }
  fs::path directory_;
};

TEST_F(Processor, NormalizesAsItsFileSays) {
  const ImageProcessor vit =
      read(R"({"do_resize": true, "size": {"height": 1, "width": 1}, "resample": 2, "do_rescale": true,
               "rescale_factor": 0.00392156862745098, "do_normalize": true, "image_mean": [0.5, 0.5, 0.5],
               "image_std": [0.5, 0.25, 0.5]})")
          .value();
  std::vector<float> values(3);
  vit.apply(Image{1, 1, {255, 102, 0}}, values).value();
  EXPECT_FLOAT_EQ(values[0], 1.0f);
  EXPECT_NEAR(values[1], -0.4f, 1e-6f);
  EXPECT_FLOAT_EQ(values[2], -1.0f);

  const ImageProcessor caffe =
      ImageProcessor::read(fs::path(TRIBUTARY_SOURCE_DIR) / "base/squeezenet-1.0").value().with_size(1);
  caffe.apply(Image{1, 1, {130, 120, 110}}, values).value();
  EXPECT_THAT(values, ElementsAre(110.0f - 104.0f, 120.0f - 117.0f, 130.0f - 123.0f));
  EXPECT_NE(caffe.description(), vit.description());
}

TEST_F(Processor, CutsTheMiddleOutOfWhatKeepsItsShape) {
  const ImageProcessor processor =
      read(R"({"size": {"shortest_edge": 2}, "do_center_crop": true, "crop_size": 2, "do_rescale": false,
               "do_normalize": false})")
          .value();
  Image image{6, 2, {}};
  for (int i = 0; i < 12; ++i) image.rgb.insert(image.rgb.end(), {static_cast<std::uint8_t>(i % 6), 0, 0});
  std::vector<float> values(12);
  processor.apply(image, values).value();
  EXPECT_EQ(values[0], 2.0f);
  EXPECT_EQ(values[3], 3.0f);
  EXPECT_EQ(values[6], 2.0f);

  Image strip{1000, 1, std::vector<std::uint8_t>(3000)};
  EXPECT_THAT(processor.apply(strip, values).error().message, HasSubstr("1000×1"));
}

TEST_F(Processor, RefusesWhatItCannotDo) {
  for (const auto& [json, key] : std::vector<std::pair<std::string, std::string>>{
           {R"({})", "size"},
           {R"({"size": {"height": 4, "width": 5}})", "square"},
           {R"({"size": 4, "do_resize": false})", "do_resize"},
           {R"({"size": {"shortest_edge": 4}})", "do_center_crop"},
           {R"({"size": 4, "do_center_crop": true, "crop_size": 5, "do_normalize": false})", "crop_size"},
           {R"({"size": 4, "resample": 1})", "resample"},
           {R"({"size": 0})", "1 to 4096"},
           {R"({"size": 4, "image_mean": [1, 2], "image_std": [1, 1, 1]})", "image_mean"},
           {R"({"size": 4, "image_mean": [1, 2, 3], "image_std": [1, 0, 1]})", "image_std"}}) {
    const Result<ImageProcessor> processor = read(json);
    ASSERT_FALSE(processor.ok()) << json;
    EXPECT_THAT(processor.error().message, HasSubstr(key)) << json;
    EXPECT_THAT(processor.error().message, HasSubstr("preprocessor_config.json"));
  }
}

}  // namespace
}  // namespace trib::models
