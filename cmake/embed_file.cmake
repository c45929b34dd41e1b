# Makes a C++ source of a file, so that a program carries it: cmake -DINPUT=… -DOUTPUT=… -DNAMESPACE=a::b -DNAME=f -P
# The source defines `std::string_view NAMESPACE::NAME()`.
file(READ ${INPUT} hex HEX)
string(REGEX REPLACE "(................................)" "\\1\n" hex "${hex}")
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${hex}")
file(WRITE ${OUTPUT} "#include <string_view>
namespace ${NAMESPACE} {
std::string_view ${NAME}();
std::string_view ${NAME}() {
  static constexpr unsigned char bytes[] = {
${bytes}};
  return {reinterpret_cast<const char*>(bytes), sizeof bytes};
}
}  // namespace ${NAMESPACE}
")
