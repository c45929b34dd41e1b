// `trib bench` as a user meets it. What it measures is for people: here are its shape, and its errors.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/device.h"
#include "tests/cli/trib_process.h"

namespace trib::cli {
namespace {

namespace json = boost::json;
using testing::AllOf;
using testing::HasSubstr;

ProgramResult bench(const std::string& name, std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), {"bench", name});
  return run_trib(arguments);
}

ProgramResult bench_train(const std::vector<std::string>& arguments) {
  return bench("train", arguments);
}

double number(const json::object& object, const char* key) {
  return object.at(key).to_number<double>();
}

TEST(BenchTrain, PrintsOneJsonObjectWithWhatAMachineMakesOfAModel) {
  const ProgramResult result = bench_train({"--base", base_model, "--precision", "bf16", "--batch", "4", "--steps", "1",
                                            "--tokens", "8", "--device", "cpu", "--json", "--set", "adapter.rank=4"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const json::object measured = one_json_object(result.out);
  EXPECT_EQ(measured.at("model").as_string(), "roberta-mini-imdb");
  EXPECT_EQ(measured.at("batch").to_number<int>(), 4);
  EXPECT_EQ(measured.at("mean_tokens").to_number<double>(), 8.0);
  EXPECT_TRUE(measured.at("device").as_string().starts_with("cpu ("));
  EXPECT_EQ(measured.at("memory_of").as_string(), "process");
  for (const char* mode : {"private", "plain"}) {
    const json::object& speed = measured.at(mode).as_object();
    EXPECT_NEAR(speed.at("tokens_per_second").to_number<double>(),
                8.0 * speed.at("samples_per_second").to_number<double>(), 1e-6);
  }
  EXPECT_GT(measured.at("gemm_share").to_number<double>(), 0.0);
  EXPECT_GT(measured.at("dp_overhead").to_number<double>(), 0.0);
}

TEST(BenchTrain, TakesTheLengthsOfTheUsersOwnTexts) {
  const ProgramResult result =
      bench_train({"--base", base_model, "--file", (source_directory / "datasets/clinc150/valid.tsv").string(),
                   "--batch", "8", "--steps", "1", "--device", "cpu"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.out,
              AllOf(HasSubstr("8 records of"), HasSubstr("samples/s"), HasSubstr("tokens/s"), HasSubstr("DP overhead"),
                    HasSubstr("operations/s of a large product"), HasSubstr("peak memory")));
}

TEST(BenchTrain, SaysWhatIsMissing) {
  const ProgramResult no_model = bench_train({});
  EXPECT_EQ(no_model.exit_code, 2);
  EXPECT_THAT(no_model.err, AllOf(HasSubstr("--base"), HasSubstr("--size")));
  const ProgramResult no_tokenizer =
      bench_train({"--size", "base", "--file", (source_directory / "datasets/clinc150/valid.tsv").string()});
  EXPECT_EQ(no_tokenizer.exit_code, 2);
  EXPECT_THAT(no_tokenizer.err, HasSubstr("--base"));
  const ProgramResult precision = bench_train({"--base", base_model, "--precision", "fp7", "--device", "cpu"});
  EXPECT_EQ(precision.exit_code, 2);
  EXPECT_THAT(precision.err, AllOf(HasSubstr("model.precision"), HasSubstr("fp7"), HasSubstr("bf16")));
}

TEST(BenchTrain, AGpuThatIsAskedForAndNotThereIsAnError) {
  if (kernels::open_device("cuda:7")) GTEST_SKIP() << "this machine has eight GPUs";
  const ProgramResult result = bench_train({"--base", base_model, "--device", "cuda:0,7"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, AllOf(HasSubstr("device \"cuda:0,7\""), HasSubstr("use \"cpu\"")));
}

TEST(BenchAnalytic, PrintsOneJsonObjectWhoseSizesAreThoseOfTheStatistics) {
  const ProgramResult result = bench("analytic", {"--buffer", "600", "--features", "32", "--records", "700",
                                                  "--classes", "5", "--sweep", "64", "--device", "cpu", "--json"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const json::object measured = one_json_object(result.out);
  EXPECT_TRUE(measured.at("device").as_string().starts_with("cpu"));
  EXPECT_EQ(number(measured, "records"), 700.0);
  EXPECT_EQ(number(measured, "classes"), 5.0);
  EXPECT_GT(number(measured, "eigen_operations_per_second"), 0.0);

  // Of the widths below the one that was asked for, and of that.
  const json::array& sums = measured.at("sums").as_array();
  ASSERT_EQ(sums.size(), 2u);
  for (const auto& [place, width] : {std::pair<std::size_t, double>{0, 512.0}, {1, 600.0}}) {
    const json::object& entry = sums[place].as_object();
    EXPECT_EQ(number(entry, "buffer"), width);
    const double seconds = number(entry, "seconds");
    EXPECT_NEAR(number(entry, "records_per_second") * seconds, 700.0, 1e-6);
    // A product and an addition for each record and each element of the triangle.
    EXPECT_NEAR(number(entry, "operations_per_second") * seconds, 700.0 * width * (width + 1.0), 1.0);
    for (const char* key : {"limit_operations_per_second", "share_of_limit", "share_of_limit_in_processor_time"})
      EXPECT_GT(number(entry, key), 0.0) << key;
  }

  const json::object& layer = measured.at("buffer_layer").as_object();
  EXPECT_EQ(number(layer, "inputs"), 32.0);
  EXPECT_EQ(number(layer, "width"), 600.0);
  EXPECT_NEAR(number(layer, "records_per_second") * number(layer, "seconds"), 700.0, 1e-6);
  const json::object& solve = measured.at("solve").as_object();
  EXPECT_EQ(number(solve, "buffer"), 600.0);
  EXPECT_EQ(number(solve, "classes"), 5.0);
  EXPECT_GT(number(solve, "seconds"), 0.0);
  const json::object& sweep = measured.at("sweep").as_object();
  EXPECT_EQ(number(sweep, "buffer"), 64.0);
  EXPECT_EQ(number(sweep, "gammas"), 20.0);
  EXPECT_GT(number(sweep, "decomposition_seconds"), 0.0);
  EXPECT_GT(number(sweep, "scores_seconds"), 0.0);

  // Float64: the triangle of 600 by 600, five sums of 600, five counts.
  const json::object& traffic = measured.at("traffic").as_object();
  const double triangle = 600.0 * 601.0 / 2.0 * 8.0, all = triangle + (5.0 * 600.0 + 5.0) * 8.0;
  EXPECT_EQ(number(traffic, "triangle_bytes"), triangle);
  EXPECT_EQ(number(traffic, "sums_bytes"), all);
  const double packed = number(traffic, "bytes");
  EXPECT_GT(packed, 0.0);
  EXPECT_LT(packed, all) << "sums of so few records have bits to spare";
  EXPECT_DOUBLE_EQ(number(traffic, "over_triangle"), packed / triangle);
  EXPECT_DOUBLE_EQ(number(traffic, "over_sums"), packed / all);
  EXPECT_GT(number(traffic, "packing_seconds"), 0.0);
}

TEST(BenchAnalytic, ASweepIsNoWiderThanTheBufferAndMayBeLeftOut) {
  const std::vector<std::string> small = {"--buffer", "32",       "--records", "16",    "--classes",
                                          "2",        "--device", "cpu",       "--json"};
  const auto with_sweep = [&](const char* width) {
    std::vector<std::string> arguments = small;
    arguments.insert(arguments.end(), {"--sweep", width});
    const ProgramResult result = bench("analytic", arguments);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return one_json_object(result.out);
  };
  EXPECT_EQ(number(with_sweep("64").at("sweep").as_object(), "buffer"), 32.0);
  EXPECT_FALSE(with_sweep("0").contains("sweep"));
}

TEST(BenchAnalytic, RefusesAValueThatCannotBeAndNamesItsOption) {
  using Case = std::pair<const char*, const char*>;
  for (const auto& [option, value] :
       {Case{"--buffer", "0"}, {"--records", "many"}, {"--classes", "0"}, {"--features", "-1"}, {"--sweep", "-1"}}) {
    const ProgramResult result = bench("analytic", {option, value, "--device", "cpu"});
    EXPECT_EQ(result.exit_code, 2) << option << " " << value;
    EXPECT_EQ(result.out, "");
    EXPECT_THAT(result.err, AllOf(HasSubstr(option), HasSubstr(value)));
  }
}

}  // namespace
}  // namespace trib::cli
