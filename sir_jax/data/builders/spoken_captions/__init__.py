"""spoken_captions: any captioned pictures, their captions said by synthesisers."""
