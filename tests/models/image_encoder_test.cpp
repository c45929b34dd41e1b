// SqueezeNet against its definition in float64, and ViT against Hugging Face Transformers.
#include "models/image_encoder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <random>

#include "common/files.h"
#include "common/safetensors.h"
#include "models/vit.h"

namespace trib::models {
namespace {

namespace fs = std::filesystem;
using kernels::Float32Products;
using testing::HasSubstr;

const fs::path squeezenet = fs::path(TRIBUTARY_SOURCE_DIR) / "base/squeezenet-1.0";
const fs::path vit = fs::path(TRIBUTARY_SOURCE_DIR) / "tests/golden/vit-tiny";

class ImageEncoderOn : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    Result<kernels::Device*> opened = kernels::open_device(GetParam());
    if (!opened) GTEST_SKIP() << opened.error().message;
    device = *opened;
  }
  kernels::Device* device = nullptr;
};
INSTANTIATE_TEST_SUITE_P(Each, ImageEncoderOn, testing::Values("cpu", "cuda"),
                         [](const auto& info) { return std::string(info.param); });

double relative_error(std::span<const float> actual, std::span<const double> expected) {
  EXPECT_EQ(actual.size(), expected.size());
  double difference = 0, magnitude = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double gap = std::abs(double{actual[i]} - expected[i]);
    difference = std::isnan(gap) ? INFINITY : std::max(difference, gap);
    magnitude = std::max(magnitude, std::abs(expected[i]));
  }
  return difference / magnitude;
}

// A picture as channel after channel, PyTorch's way, and the layers of the paper's table 1 written out.
struct Planes {
  std::int64_t channels = 0, side = 0;
  std::vector<double> values;
  double at(std::int64_t c, std::int64_t y, std::int64_t x) const {
    if (y < 0 || x < 0 || y >= side || x >= side) return 0.0;
    return values[static_cast<std::size_t>((c * side + y) * side + x)];
  }
};

Planes convolve(const Planes& input, const TensorMap& state, const std::string& name, std::int64_t stride,
                std::int64_t padding) {
  const HostTensor& weights = state.at(name + ".weight");
  const std::int64_t outputs = weights.shape()[0], window = weights.shape()[2];
  EXPECT_EQ(weights.shape()[1], input.channels);
  Planes result{outputs, (input.side + 2 * padding - window) / stride + 1, {}};
  for (std::int64_t o = 0; o < outputs; ++o)
    for (std::int64_t y = 0; y < result.side; ++y)
      for (std::int64_t x = 0; x < result.side; ++x) {
        double sum = state.at(name + ".bias").as<float>()[static_cast<std::size_t>(o)];
        for (std::int64_t c = 0; c < input.channels; ++c)
          for (std::int64_t r = 0; r < window; ++r)
            for (std::int64_t k = 0; k < window; ++k)
              sum +=
                  input.at(c, y * stride + r - padding, x * stride + k - padding) *
                  weights.as<float>()[static_cast<std::size_t>(((o * input.channels + c) * window + r) * window + k)];
        result.values.push_back(std::max(0.0, sum));
      }
  return result;
}

Planes pool(const Planes& input) {
  Planes result{input.channels, (input.side - 3 + 1) / 2 + 1, {}};
  for (std::int64_t c = 0; c < input.channels; ++c)
    for (std::int64_t y = 0; y < result.side; ++y)
      for (std::int64_t x = 0; x < result.side; ++x) {
        double best = 0.0;  // behind a rectifier nothing is below
        for (std::int64_t r = 0; r < 3; ++r)
          for (std::int64_t k = 0; k < 3; ++k) best = std::max(best, input.at(c, 2 * y + r, 2 * x + k));
        result.values.push_back(best);
      }
  return result;
}

Planes fire(const Planes& input, const TensorMap& state, const std::string& name) {
  const Planes squeezed = convolve(input, state, name + ".squeeze1x1", 1, 0);
  Planes result = convolve(squeezed, state, name + ".expand1x1", 1, 0);
  const Planes other = convolve(squeezed, state, name + ".expand3x3", 1, 1);
  result.channels += other.channels;
  result.values.insert(result.values.end(), other.values.begin(), other.values.end());
  return result;
}

std::vector<double> reference_features(std::span<const float> pixels, std::int64_t size, const TensorMap& state) {
  Planes planes{3, size, {}};
  for (std::size_t c = 0; c < 3; ++c)
    for (std::size_t i = 0; i < static_cast<std::size_t>(size * size); ++i) planes.values.push_back(pixels[3 * i + c]);
  planes = pool(convolve(planes, state, "conv1", 2, 0));
  for (const char* name : {"fire2", "fire3", "fire4"}) planes = fire(planes, state, name);
  planes = pool(planes);
  for (const char* name : {"fire5", "fire6", "fire7", "fire8"}) planes = fire(planes, state, name);
  planes = fire(pool(planes), state, "fire9");
  std::vector<double> means;
  const auto area = static_cast<std::size_t>(planes.side * planes.side);
  for (std::size_t c = 0; c < static_cast<std::size_t>(planes.channels); ++c) {
    double sum = 0;
    for (std::size_t i = 0; i < area; ++i) sum += planes.values[c * area + i];
    means.push_back(sum / static_cast<double>(area));
  }
  return means;
}

HostTensor random_pixels(std::int64_t images, std::int64_t size) {
  std::mt19937 random(5);
  std::uniform_int_distribution<int> values(-120, 150);
  HostTensor pixels(DType::f32, {images, size, size, 3});
  for (float& value : pixels.as<float>()) value = static_cast<float>(values(random));
  return pixels;
}

TEST_P(ImageEncoderOn, SqueezenetGivesTheMeansOfFire9) {
  const TensorMap state = read_safetensors(squeezenet / "model.safetensors").value().tensors;
  for (const std::int64_t size : {29, 35}) {  // pools with and without a last window that is cut
    const auto encoder = load_image_encoder(*device, squeezenet, size, Float32Products::exact).value();
    EXPECT_EQ(encoder->width(), 512);
    const HostTensor pixels = random_pixels(2, size);
    const HostTensor features = encoder->features(pixels);
    ASSERT_EQ(features.shape(), (Shape{2, 512}));
    for (std::size_t image = 0; image < 2; ++image) {
      const auto values = static_cast<std::size_t>(size * size * 3);
      const std::vector<double> expected =
          reference_features(pixels.as<float>().subspan(image * values, values), size, state);
      EXPECT_LT(relative_error(features.as<float>().subspan(image * 512, 512), expected), 1e-5) << size;
    }
  }
}

TEST_P(ImageEncoderOn, FeaturesOfAPictureDoNotDependOnThoseBesideIt) {
  const auto encoder = load_image_encoder(*device, squeezenet, 41, Float32Products::exact).value();
  const HostTensor pixels = random_pixels(9, 41);
  const HostTensor all = encoder->features(pixels);
  for (std::size_t i = 0; i < 9; ++i) {
    HostTensor one(DType::f32, {1, 41, 41, 3});
    std::ranges::copy(pixels.as<float>().subspan(i * 41 * 41 * 3, 41 * 41 * 3), one.as<float>().begin());
    const HostTensor alone = encoder->features(one);
    const std::vector<double> expected(alone.as<float>().begin(), alone.as<float>().end());
    EXPECT_LT(relative_error(all.as<float>().subspan(i * 512, 512), expected), 2e-6);
  }
}

TEST_P(ImageEncoderOn, VitGivesTheStatesOfTransformers) {
  const TensorMap golden = read_safetensors(vit / "expected.safetensors").value().tensors;
  const HostTensor &planes = golden.at("pixel_values"), &last = golden.at("last_hidden");
  const std::int64_t images = planes.shape()[0], size = planes.shape()[2], tokens = last.shape()[1];
  HostTensor pixels(DType::f32, {images, size, size, 3});
  const auto area = static_cast<std::size_t>(size * size);
  for (std::size_t i = 0; i < static_cast<std::size_t>(images); ++i)
    for (std::size_t c = 0; c < 3; ++c)
      for (std::size_t p = 0; p < area; ++p)
        pixels.as<float>()[(i * area + p) * 3 + c] = planes.as<float>()[(i * 3 + c) * area + p];

  ImageProcessor processor;
  const auto encoder = VitEncoder::load(*device, vit, processor.with_size(size), Float32Products::exact).value();
  kernels::Workspace workspace(*device);
  const kernels::Tensor x = kernels::Tensor::from_host(encoder->stream(), pixels).reshape({images * size * size, 3});
  const kernels::Tensor states(*device, DType::f32, {images * tokens, encoder->width()});
  encoder->forward_all(encoder->stream(), workspace, x, images, states);
  const std::vector<double> expected(last.as<float>().begin(), last.as<float>().end());
  EXPECT_LT(relative_error(states.to_host(encoder->stream()).as<float>(), expected), 1e-5);

  std::vector<double> of_class_tokens;
  const auto d = static_cast<std::size_t>(encoder->width());
  for (std::size_t i = 0; i < static_cast<std::size_t>(images); ++i)
    for (std::size_t j = 0; j < d; ++j)
      of_class_tokens.push_back(last.as<float>()[i * static_cast<std::size_t>(tokens) * d + j]);
  EXPECT_LT(relative_error(encoder->features(pixels).as<float>(), of_class_tokens), 1e-5);
}

TEST(ImageEncoders, NameWhatDoesNotFit) {
  kernels::Device& cpu = kernels::cpu_device();
  const Error small = load_image_encoder(cpu, squeezenet, 28, Float32Products::exact).error();
  EXPECT_EQ(small.code, Errc::invalid_argument);
  EXPECT_THAT(small.message, HasSubstr("28 pixels"));
  const Error positions = VitEncoder::load(cpu, vit, ImageProcessor().with_size(40), Float32Products::exact).error();
  EXPECT_EQ(positions.code, Errc::invalid_argument);
  EXPECT_THAT(positions.message, HasSubstr("it takes 32"));
  // A directory without what a network needs.
  EXPECT_THAT(load_image_encoder(cpu, vit, 0, Float32Products::exact).error().message,
              HasSubstr("preprocessor_config.json"));
  const auto encoder = load_image_encoder(cpu, squeezenet, 41, Float32Products::exact).value();
  EXPECT_THROW(encoder->features(random_pixels(1, 40)), std::invalid_argument);

  const fs::path directory = fs::path(testing::TempDir()) / "image_encoder_test";
  fs::remove_all(directory);
  fs::create_directories(directory);
  fs::copy(vit, directory, fs::copy_options::recursive);
  std::string config = read_file(directory / "config.json").value();
  const auto replace = [&](const std::string& from, const std::string& to) {
    std::string changed = config;
    const std::size_t place = changed.find(from);
    EXPECT_NE(place, std::string::npos) << from;
    changed.replace(place, from.size(), to);
    write_file_durably(directory / "config.json", changed).value();
    return VitEncoder::load(cpu, directory, ImageProcessor().with_size(32), Float32Products::exact).error().message;
  };
  EXPECT_THAT(replace("\"gelu\"", "\"gelu_new\""), HasSubstr("gelu_new"));
  EXPECT_THAT(replace("\"num_channels\": 3", "\"num_channels\": 1"), HasSubstr("num_channels"));
  EXPECT_THAT(replace("\"num_attention_heads\": 4", "\"num_attention_heads\": 5"), HasSubstr("num_attention_heads"));
  EXPECT_THAT(replace("\"patch_size\": 8", "\"patch_size\": 7"), HasSubstr("patch_size"));
  EXPECT_THAT(replace("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3"), HasSubstr("encoder.layer.2"));
}

}  // namespace
}  // namespace trib::models
