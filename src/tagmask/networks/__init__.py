"""The networks: what is learned.

    denoiser    ε_θ(x_t, t, e), the ADM U-Net with its class table outside
    classifier  p_φ(y | x_t, t), the encoder half of the same U-Net
    segmenter   the supervised baseline, the upper row of every table
    cnn         p(y | x), an ordinary classifier of clean images
    features    a denoiser that stays as it is, as a function from pictures to features of their pixels
    textdiff, pixel_classifier, transunet, swinunet, gloria, lvit    other learners of masks
    kinds       all of them by name
    weights     safetensors in and out; published ADM checkpoints to ours, key by key
    foreign     published .pt files, opened by a process that can do nothing else

Steps t count as papers do (0 clean, T noise). The shift to the networks' own index is made here, in
`Denoiser.forward` and `Classifier.forward`, and nowhere else.
"""
