#include "common/tensor_map.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "common/hash.h"

namespace trib {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr DType all_dtypes[] = {DType::f64, DType::f32, DType::f16, DType::bf16, DType::i64, DType::i32, DType::u8};

HostTensor tensor_of_u16(DType dtype, const std::vector<std::uint16_t>& bits) {
  HostTensor tensor(dtype, {static_cast<std::int64_t>(bits.size())});
  std::memcpy(tensor.bytes().data(), bits.data(), tensor.bytes().size());
  return tensor;
}

TensorMap example() {
  TensorMap tensors;
  tensors["b"] = HostTensor::from_f32({2, 2}, std::vector<float>{1, 2, 3, 4});
  tensors["a"] = HostTensor::from_f64({3}, std::vector<double>{0.5, -1, 2});
  return tensors;
}

TEST(DType, NamesRoundTrip) {
  for (const DType dtype : all_dtypes) EXPECT_EQ(dtype_from_string(to_string(dtype)).value(), dtype);
}

TEST(DType, RefusesTypesItDoesNotHave) {
  const auto result = dtype_from_string("F8_E4M3");
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, Errc::unsupported);
  EXPECT_THAT(result.error().message, HasSubstr("F8_E4M3"));
}

TEST(ShapeOf, CountsElements) {
  EXPECT_EQ(element_count({768, 8}), 6144);
  EXPECT_EQ(element_count({}), 1);
  EXPECT_EQ(element_count({5, 0, 7}), 0);
  EXPECT_EQ(to_string(Shape{768, 8}), "[768, 8]");
  EXPECT_EQ(to_string(Shape{}), "[]");
}

TEST(ShapeOf, RefusesNegativeAndOverflowingDimensions) {
  EXPECT_THAT(checked_byte_count(DType::f32, {2, -1}).error().message, HasSubstr("[2, -1] has a negative dimension"));
  const std::int64_t huge = std::int64_t{1} << 32;
  EXPECT_THAT(checked_byte_count(DType::u8, {huge, huge}).error().message, HasSubstr("more bytes than"));
  EXPECT_FALSE(checked_byte_count(DType::f64, {std::int64_t{1} << 60}));
  EXPECT_EQ(checked_byte_count(DType::f64, {std::int64_t{1} << 59}).value(), std::size_t{1} << 62);
  EXPECT_EQ(checked_byte_count(DType::f64, {huge, huge, 0}).value(), 0u);
  EXPECT_THROW(element_count({-1}), FatalError);
  EXPECT_THROW(HostTensor(DType::f32, {-1}), FatalError);
}

TEST(HostTensorValues, StartAtZeroAndHaveNoElementsByDefault) {
  const HostTensor tensor(DType::i32, {2, 3});
  EXPECT_THAT(tensor.as<std::int32_t>(), ElementsAre(0, 0, 0, 0, 0, 0));
  EXPECT_EQ(HostTensor().element_count(), 0);
  EXPECT_TRUE(HostTensor().as<float>().empty());
}

TEST(HostTensorValues, RefuseTheWrongElementType) {
  HostTensor tensor(DType::f32, {2});
  EXPECT_THROW(tensor.as<std::int32_t>(), std::logic_error);
  EXPECT_THROW(tensor.as<double>(), std::logic_error);
}

TEST(HostTensorValues, RefuseTheWrongNumberOfValues) {
  EXPECT_THROW(HostTensor::from_f32({3}, std::vector<float>{1, 2}), std::invalid_argument);
}

TEST(HostTensorValues, BecomeFloat32FromEveryFloatingType) {
  const auto values = [](const HostTensor& tensor) {
    const HostTensor converted = tensor.to_f32().value();
    EXPECT_EQ(converted.shape(), tensor.shape());
    const auto view = converted.as<float>();
    return std::vector<float>(view.begin(), view.end());
  };
  EXPECT_THAT(values(HostTensor::from_f64({2}, std::vector<double>{0.1, -2})), ElementsAre(0.1f, -2.0f));
  EXPECT_THAT(values(HostTensor::from_f32({2}, std::vector<float>{0.1f, -2})), ElementsAre(0.1f, -2.0f));
  EXPECT_THAT(values(tensor_of_u16(DType::f16, {0x3c00, 0xc000})), ElementsAre(1.0f, -2.0f));
  EXPECT_THAT(values(tensor_of_u16(DType::bf16, {0x3f80, 0xc000})), ElementsAre(1.0f, -2.0f));
  EXPECT_EQ(HostTensor(DType::i64, {1}).to_f32().error().code, Errc::unsupported);
}

TEST(HostTensorValues, ShowInfinityAndNanInEveryFloatingType) {
  const float largest = std::numeric_limits<float>::max();
  EXPECT_TRUE(HostTensor::from_f32({3}, std::vector<float>{0, -largest, 1e-45f}).all_finite());
  EXPECT_FALSE(HostTensor::from_f32({2}, std::vector<float>{0, -INFINITY}).all_finite());
  EXPECT_FALSE(HostTensor::from_f32({2}, std::vector<float>{NAN, 0}).all_finite());
  EXPECT_TRUE(HostTensor::from_f64({1}, std::vector<double>{1e300}).all_finite());
  EXPECT_FALSE(HostTensor::from_f64({2}, std::vector<double>{1, NAN}).all_finite());
  EXPECT_FALSE(HostTensor::from_f64({2}, std::vector<double>{1, INFINITY}).all_finite());
  EXPECT_TRUE(tensor_of_u16(DType::f16, {0x7bff, 0x8001}).all_finite());
  EXPECT_FALSE(tensor_of_u16(DType::f16, {0, 0xfc00}).all_finite());
  EXPECT_FALSE(tensor_of_u16(DType::f16, {0x7c01}).all_finite());
  EXPECT_TRUE(tensor_of_u16(DType::bf16, {0x7f7f, 0x7c00}).all_finite());
  EXPECT_FALSE(tensor_of_u16(DType::bf16, {0, 0x7f81}).all_finite());
  HostTensor integers(DType::i32, {1});
  std::memset(integers.bytes().data(), 0xff, 4);  // a NaN, were it a float
  EXPECT_TRUE(integers.all_finite());
}

TEST(TensorSchemaOf, OrdersByNameAndCountsBytes) {
  const TensorSchema schema({{"b", DType::f16, {3}}, {"a", DType::f64, {2, 2}}});
  EXPECT_EQ(schema.specs().front().name, "a");
  EXPECT_EQ(schema.byte_count(), 3 * 2 + 4 * 8u);
  EXPECT_EQ(schema, TensorSchema({{"a", DType::f64, {2, 2}}, {"b", DType::f16, {3}}}));
}

TEST(TensorSchemaOf, HashesNameTypeAndShape) {
  const auto hash = [](std::vector<TensorSpec> specs) { return TensorSchema(std::move(specs)).hash(); };
  const auto reference = hash({{"a", DType::f32, {6}}});
  EXPECT_EQ(reference, hash({{"a", DType::f32, {6}}}));
  EXPECT_NE(reference, hash({{"b", DType::f32, {6}}}));
  EXPECT_NE(reference, hash({{"a", DType::i32, {6}}}));
  EXPECT_NE(reference, hash({{"a", DType::f32, {2, 3}}}));
  EXPECT_NE(reference, hash({{"a", DType::f32, {6}}, {"b", DType::f32, {0}}}));
  EXPECT_NE(reference, hash({}));
}

TEST(TensorSchemaOf, HashIsThatOfTheDocumentedEncoding) {
  // Sites of different versions compare this hash, so it is a format: written out here byte by byte.
  using namespace std::string_literals;
  const std::string encoding = "\x19\0\0\0\0\0\0\0tributary tensor schema 1"s + "\x01\0\0\0\0\0\0\0"s +
                               "\x01\0\0\0\0\0\0\0a"s + "\x03\0\0\0\0\0\0\0"s + "F32"s + "\x02\0\0\0\0\0\0\0"s +
                               "\x02\0\0\0\0\0\0\0"s + "\x03\0\0\0\0\0\0\0"s;
  EXPECT_EQ(TensorSchema({{"a", DType::f32, {2, 3}}}).hash(), sha256(encoding));
}

TEST(TensorMapOf, NamesWhatItHoldsWhenATensorIsMissing) {
  const TensorMap tensors = example();
  EXPECT_EQ(tensors.find("a").value()->dtype(), DType::f64);
  const auto missing = tensors.find("c");
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code, Errc::not_found);
  EXPECT_EQ(missing.error().message, "there is no tensor 'c'; there are: a, b");
  EXPECT_THROW(tensors.at("c"), FatalError);
}

TEST(TensorMapOf, ShortensALongListOfNames) {
  TensorMap tensors;
  for (int i = 0; i < 20; ++i) tensors[std::string(1, static_cast<char>('a' + i))] = HostTensor(DType::u8, {1});
  EXPECT_THAT(tensors.find("z").error().message, HasSubstr("a, b, c, d, e, f, g, h and 12 more"));
}

TEST(TensorMapOf, ErasesByName) {
  TensorMap tensors = example();
  tensors.erase("a");
  tensors.erase("never there");
  EXPECT_FALSE(tensors.contains("a"));
  EXPECT_EQ(tensors.size(), 1u);
}

TEST(TensorMapOf, AcceptsExactlyItsOwnSchema) {
  EXPECT_TRUE(example().check_schema(example().schema()).ok());
}

TEST(TensorMapOf, NamesTheFirstDifferenceFromASchema) {
  const auto problem = [](std::vector<TensorSpec> expected) {
    return example().check_schema(TensorSchema(std::move(expected))).error().message;
  };
  const TensorSpec a{"a", DType::f64, {3}}, b{"b", DType::f32, {2, 2}};
  EXPECT_EQ(problem({b}), "tensor 'a' was not expected");
  EXPECT_EQ(problem({a}), "tensor 'b' was not expected");
  EXPECT_EQ(problem({a, {"aa", DType::u8, {1}}, b}), "tensor 'aa' (U8 [1]) is missing");
  EXPECT_EQ(problem({a, b, {"c", DType::u8, {1}}}), "tensor 'c' (U8 [1]) is missing");
  EXPECT_EQ(problem({a, {"b", DType::f32, {4}}}), "tensor 'b' is F32 [2, 2] where F32 [4] was expected");
  EXPECT_EQ(problem({a, {"b", DType::i32, {2, 2}}}), "tensor 'b' is F32 [2, 2] where I32 [2, 2] was expected");
}

TEST(TensorMapOf, NamesTheTensorThatIsNotFinite) {
  TensorMap tensors = example();
  EXPECT_TRUE(tensors.check_finite().ok());
  tensors["b"].as<float>()[3] = NAN;
  EXPECT_THAT(tensors.check_finite().error().message, HasSubstr("'b'"));
}

TEST(TensorMapOf, DigestDependsOnEveryByteAndOnTheSchema) {
  const auto reference = example().digest();
  EXPECT_EQ(example().digest(), reference);
  for (const std::string name : {"a", "b"}) {
    for (std::size_t i = 0; i < example().at(name).bytes().size(); ++i) {
      TensorMap changed = example();
      changed[name].bytes()[i] ^= std::byte{1};
      EXPECT_NE(changed.digest(), reference) << name << " " << i;
    }
  }
  TensorMap reshaped = example();
  reshaped["b"] = HostTensor::from_f32({4}, std::vector<float>{1, 2, 3, 4});
  EXPECT_NE(reshaped.digest(), reference);
}

}  // namespace
}  // namespace trib
