#include "common/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "common/files.h"
#include "tests/common/temporary_directory.h"

namespace trib {
namespace {

using test::TemporaryDirectory;
using testing::HasSubstr;

const std::filesystem::path golden = std::filesystem::path(TRIBUTARY_SOURCE_DIR) / "tests/golden/roberta-tiny";

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text));
}

std::string text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// A file with this header, its true length before it, and `data_size` zero bytes after it.
std::string file_with(std::string_view header, std::size_t data_size = 0) {
  std::string file(8, '\0');
  const std::uint64_t length = header.size();
  std::memcpy(file.data(), &length, sizeof length);
  return file.append(header).append(data_size, '\0');
}

Result<SafetensorsFile> parse(std::string_view file) {
  return parse_safetensors(bytes_of(file), "x.safetensors");
}

void expect_corrupt(const std::string& file, const std::string& why) {
  const auto result = parse(file);
  ASSERT_FALSE(result) << file;
  EXPECT_EQ(result.error().code, Errc::corrupt);
  EXPECT_THAT(result.error().message, HasSubstr("x.safetensors: "));
  EXPECT_THAT(result.error().message, HasSubstr(why));
}

TensorMap every_dtype() {
  TensorMap tensors;
  std::uint8_t next = 1;
  for (const DType dtype : {DType::u8, DType::f16, DType::bf16, DType::i32, DType::f32, DType::f64, DType::i64}) {
    HostTensor tensor(dtype, {3, 1});
    for (std::byte& byte : tensor.bytes()) byte = static_cast<std::byte>(next++);
    tensors["layer." + std::string(to_string(dtype))] = std::move(tensor);
  }
  tensors["scalar"] = HostTensor::from_f32({}, std::vector<float>{7});
  tensors["empty"] = HostTensor(DType::f32, {0, 5});
  return tensors;
}

TEST(Safetensors, RoundTripsEveryTypeShapeAndName) {
  TensorMap tensors = every_dtype();
  tensors["ключ \"quoted\"\\\n"] = HostTensor(DType::u8, {1});
  const SafetensorsMetadata metadata{{"format", "pt"}, {"note", "a \"quote\"\tand a tab"}};
  const auto file = parse(text_of(serialize_safetensors(tensors, metadata))).value();
  EXPECT_EQ(file.tensors, tensors);
  EXPECT_EQ(file.metadata, metadata);
}

TEST(Safetensors, RoundTripsAFile) {
  const TemporaryDirectory directory;
  write_safetensors(directory / "state.safetensors", every_dtype(), {{"round", "3"}}).value();
  const auto file = read_safetensors(directory / "state.safetensors").value();
  EXPECT_EQ(file.tensors, every_dtype());
  EXPECT_EQ(file.metadata.at("round"), "3");
  EXPECT_EQ(read_file(directory / "state.safetensors").value(),
            text_of(serialize_safetensors(every_dtype(), {{"round", "3"}})));
}

TEST(Safetensors, RoundTripsAnEmptyMap) {
  EXPECT_TRUE(parse(text_of(serialize_safetensors({}))).value().tensors.empty());
}

TEST(Safetensors, AlignsTheDataAndEveryTensorInIt) {
  const std::string file = text_of(serialize_safetensors(every_dtype()));
  std::uint64_t header_length = 0;
  std::memcpy(&header_length, file.data(), sizeof header_length);
  EXPECT_EQ(header_length % 8, 0u);
  const TensorMap tensors = every_dtype();
  for (const auto& [name, tensor] : tensors) {
    if (tensor.bytes().size() <= 4) continue;
    const std::size_t position = file.find(text_of(tensor.bytes()), 8 + header_length);
    ASSERT_NE(position, std::string::npos) << name;
    EXPECT_EQ(position % size_of(tensor.dtype()), 0u) << name;
  }
}

TEST(Safetensors, WritesWhatTheReferenceImplementationWrites) {
  for (const char* name : {"model.safetensors", "adapter/adapter_model.safetensors", "expected.safetensors",
                           "expected_lora.safetensors"}) {
    const std::string original = read_file(golden / name).value();
    const auto file = parse(original).value();
    EXPECT_GT(file.tensors.size(), 0u);
    EXPECT_TRUE(text_of(serialize_safetensors(file.tensors, file.metadata)) == original) << name;
  }
}

TEST(Safetensors, ReadsAModelOfHuggingFace) {
  const auto file = read_safetensors(golden / "model.safetensors").value();
  EXPECT_EQ(file.metadata.at("format"), "pt");
  EXPECT_EQ(file.tensors.at("classifier.out_proj.weight").shape(), (Shape{3, 64}));
  EXPECT_TRUE(file.tensors.check_finite().ok());
  EXPECT_EQ(file.tensors, parse(read_file(golden / "model.safetensors").value()).value().tensors);
}

TEST(Safetensors, AcceptsDataThatDoesNotBeginAligned) {
  const auto file = parse(file_with(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 4)).value();
  EXPECT_EQ(file.tensors.at("a").as<float>()[0], 0.0f);
}

TEST(Safetensors, NamesAFileThatIsNotThere) {
  const auto result = read_safetensors("/nonexistent/model.safetensors");
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, Errc::not_found);
  EXPECT_THAT(result.error().message, HasSubstr("/nonexistent/model.safetensors"));
}

TEST(Safetensors, RefusesADirectory) {
  const TemporaryDirectory directory;
  EXPECT_EQ(read_safetensors(directory.path()).error().code, Errc::io_error);
}

TEST(Safetensors, RefusesEveryTruncationOfAFile) {
  const TemporaryDirectory directory;
  const std::string whole = text_of(serialize_safetensors(every_dtype(), {{"format", "pt"}}));
  for (std::size_t length = 0; length < whole.size(); ++length) {
    const auto parsed = parse(std::string_view(whole).substr(0, length));
    ASSERT_FALSE(parsed) << length;
    ASSERT_EQ(parsed.error().code, Errc::corrupt) << length;
  }
  for (const std::size_t length :
       {std::size_t{0}, std::size_t{7}, std::size_t{8}, whole.size() / 2, whole.size() - 1}) {
    write_file_durably(directory / "cut", std::string_view(whole).substr(0, length)).value();
    EXPECT_EQ(read_safetensors(directory / "cut").error().code, Errc::corrupt) << length;
  }
}

TEST(Safetensors, RefusesBytesAfterTheLastTensor) {
  expect_corrupt(file_with("{}", 1), "take 0 bytes, but 1 follow");
}

TEST(Safetensors, RefusesAHeaderOverTheLimit) {
  std::string file(8, '\0');
  const std::uint64_t length = 100'000'001;
  std::memcpy(file.data(), &length, sizeof length);
  expect_corrupt(file, "100000001 bytes, more than the limit of 100000000");
  std::memset(file.data(), 0xff, 8);
  expect_corrupt(file, "more than the limit");
}

TEST(Safetensors, RefusesAHeaderThatIsNotAnObject) {
  expect_corrupt(file_with("{\"a\":"), "is not JSON");
  expect_corrupt(file_with("[]"), "not a JSON object");
  expect_corrupt(file_with(std::string(10'000, '[')), "is not JSON");
  expect_corrupt(file_with(R"({"__metadata__":[]})"), "__metadata__ is not an object");
  expect_corrupt(file_with(R"({"__metadata__":{"format":1}})"), "__metadata__ 'format' is not a string");
}

TEST(Safetensors, RefusesEntriesThatLackOrAddAField) {
  const std::string fields = "must have exactly a dtype, a shape and two data_offsets";
  expect_corrupt(file_with(R"({"a":3})"), fields);
  expect_corrupt(file_with(R"({"a":{"dtype":"U8","shape":[1]}})", 1), fields);
  expect_corrupt(file_with(R"({"a":{"dtype":"U8","shape":1,"data_offsets":[0,1]}})", 1), fields);
  expect_corrupt(file_with(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1,2]}})", 1), fields);
  expect_corrupt(file_with(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":0}})", 1), fields);
}

TEST(Safetensors, RefusesAnUnknownElementType) {
  const auto result = parse(file_with(R"({"a":{"dtype":"F8_E5M2","shape":[1],"data_offsets":[0,1]}})", 1));
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, Errc::unsupported);
  EXPECT_THAT(result.error().message, HasSubstr("x.safetensors: tensor 'a': element type 'F8_E5M2'"));
}

TEST(Safetensors, RefusesOffsetsThatContradictTheShape) {
  expect_corrupt(file_with(R"({"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,12]}})", 12),
                 "tensor 'a' of shape [2, 2] and type F32 has 16 bytes, but its data_offsets are [0, 12]");
  expect_corrupt(file_with(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[2,1]}})", 2), "data_offsets are [2, 1]");
}

TEST(Safetensors, RefusesShapesThatNoMemoryHolds) {
  expect_corrupt(file_with(R"({"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,0]}})"), "holds -1");
  expect_corrupt(file_with(R"({"a":{"dtype":"U8","shape":[1.5],"data_offsets":[0,1]}})", 1), "holds 1.5E0");
  expect_corrupt(file_with(R"({"a":{"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0]}})"),
                 "more bytes than");
  expect_corrupt(file_with(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[18446744073709551615,0]}})"),
                 "not a non-negative integer");
  // The file is far smaller than the tensor it claims: refused before a byte is allocated for it.
  expect_corrupt(
      file_with(R"({"a":{"dtype":"U8","shape":[4611686018427387904],"data_offsets":[0,4611686018427387904]}})"),
      "only 0 follow");
}

TEST(Safetensors, RefusesTensorsThatOverlapOrLeaveAGap) {
  expect_corrupt(file_with(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
                           R"("b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}})",
                           6),
                 "tensor 'b' begins at byte 2 of the data, but the tensors before it end at 4: they overlap");
  expect_corrupt(file_with(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
                           R"("b":{"dtype":"U8","shape":[4],"data_offsets":[5,9]}})",
                           9),
                 "there is a gap");
}

TEST(Safetensors, NeverAcceptsADamagedHeaderAsAnotherFile) {
  // Whatever a flipped bit of the header turns it into, what is accepted is a whole, consistent file.
  const std::string whole = text_of(serialize_safetensors(every_dtype(), {{"format", "pt"}}));
  std::uint64_t header_length = 0;
  std::memcpy(&header_length, whole.data(), sizeof header_length);
  int refused = 0;
  for (std::size_t position = 0; position < 8 + header_length; ++position) {
    for (const char mask : {'\x01', '\x10', '\x80'}) {
      std::string damaged = whole;
      damaged[position] = static_cast<char>(damaged[position] ^ mask);
      const auto parsed = parse(damaged);
      if (!parsed) {
        ++refused;
        continue;
      }
      ASSERT_EQ(parsed->tensors.byte_count(), every_dtype().byte_count()) << position;
    }
  }
  EXPECT_GT(refused, static_cast<int>(header_length));
}

}  // namespace
}  // namespace trib
