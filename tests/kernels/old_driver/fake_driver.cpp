// In place of NVIDIA's driver: one that serves CUDA 11.0 and nothing besides.
extern "C" int cuDriverGetVersion(int* version) {
  *version = 11000;
  return 0;
}
