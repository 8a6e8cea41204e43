// A float32 convolution by seven loops, as the papers on binary networks compare with: no padding, stride 1.
// x (rows, columns, channels), w (outputs, size, size, channels), y (rows - size + 1, columns - size + 1, outputs).
// Build: g++ -O3 -fno-tree-vectorize -shared -fPIC naive.cpp
extern "C" void convolution(const float* x, const float* w, float* y, int rows, int columns, int channels, int outputs,
                            int size) {
  for (int row = 0; row <= rows - size; ++row)
    for (int column = 0; column <= columns - size; ++column)
      for (int k = 0; k < outputs; ++k) {
        float sum = 0;
        for (int r = 0; r < size; ++r)
          for (int s = 0; s < size; ++s)
            for (int c = 0; c < channels; ++c)
              sum += x[((row + r) * columns + column + s) * channels + c] * w[((k * size + r) * size + s) * channels + c];
        y[(row * (columns - size + 1) + column) * outputs + k] = sum;
      }
}
